//! As much of HTTP/1.1 as three pages need: requests without a body, one at a time.

use httparse::{EMPTY_HEADER, Header, Status};

/// The longest head of a request, in bytes.
pub const HEAD_MAX: usize = 8 << 10;
/// The most headers of a request.
const HEADERS_MAX: usize = 64;

/// The paths of the pages.
pub const PATHS: [&str; 3] = ["/metrics", "/healthz", "/readyz"];

/// Which page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Page {
    /// The metrics; as OpenMetrics, or in the text format of Prometheus.
    Metrics {
        open_metrics: bool,
    },
    Health,
    Ready,
}

/// A request that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PageRequest {
    pub(crate) page: Page,
    /// True if the client sends no other request.
    pub(crate) closes: bool,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestError {
    /// It is no request, or one with a body.
    Bad,
    NotFound,
    /// Its method is neither GET nor HEAD.
    Method,
    TooLarge,
}

/// Parses the request at the beginning of `input`. Returns `None` if it is not complete yet.
pub(crate) fn parse(input: &[u8]) -> Result<Option<PageRequest>, RequestError> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    let len = match parsed.parse(&input[..input.len().min(HEAD_MAX)]) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if input.len() < HEAD_MAX => return Ok(None),
        Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            return Err(RequestError::TooLarge);
        }
        Err(_) => return Err(RequestError::Bad),
    };
    if !matches!(parsed.method, Some("GET" | "HEAD")) {
        return Err(RequestError::Method);
    }
    let (headers, is_1_1) = (&*parsed.headers, parsed.version == Some(1));
    let has_body = values(headers, "Content-Length").any(|length| length != "0")
        || values(headers, "Transfer-Encoding").next().is_some();
    // HTTP/1.1 requires the name of the host.
    if has_body || (is_1_1 && values(headers, "Host").count() != 1) {
        return Err(RequestError::Bad);
    }
    let page = match path_of(parsed.path.unwrap_or_default()) {
        "/metrics" => Page::Metrics { open_metrics: wants_open_metrics(headers) },
        "/healthz" => Page::Health,
        "/readyz" => Page::Ready,
        _ => return Err(RequestError::NotFound),
    };
    let mut options = values(headers, "Connection").flat_map(|value| value.split(','));
    let asks = options.any(|option| option.trim().eq_ignore_ascii_case("close"));
    // What has come with it already would not be reported again.
    let closes = asks || !is_1_1 || input.len() > len;
    Ok(Some(PageRequest { page, closes }))
}

/// Returns true if the answer has no body, also if the request is refused.
pub(crate) fn is_head(input: &[u8]) -> bool {
    input.trim_ascii_start().starts_with(b"HEAD ")
}

/// Returns the path of a target, which a proxy may have sent with the host.
fn path_of(target: &str) -> &str {
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    path.split_once('?').map_or(path, |(path, _)| path)
}

/// Returns the values of the headers of this name; one that is no text is empty.
fn values<'h>(headers: &'h [Header<'h>], name: &'h str) -> impl Iterator<Item = &'h str> {
    let named = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| str::from_utf8(header.value).unwrap_or_default().trim())
}

/// Returns true if a client takes OpenMetrics 1.0 at least as gladly as plain text.
fn wants_open_metrics(headers: &[Header<'_>]) -> bool {
    let (mut open, mut plain) = (0.0, 0.0);
    for range in values(headers, "Accept").flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let (mut quality, mut version) = (1.0_f64, "1.0.0");
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim() {
                "q" => quality = value.trim().parse().unwrap_or(0.0),
                "version" => version = value.trim(),
                _ => {}
            }
        }
        match kind {
            "application/openmetrics-text" if version == "1.0.0" => open = quality.max(open),
            "text/plain" | "text/*" | "*/*" => plain = quality.max(plain),
            _ => {}
        }
    }
    open > 0.0 && open >= plain
}

/// An answer, ready to be sent.
pub(crate) struct Answer {
    pub(crate) status: &'static str,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

impl Answer {
    /// An answer of one line.
    pub(crate) fn line(status: &'static str, text: &str) -> Answer {
        Answer { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n") }
    }

    /// The answer to what is refused.
    pub(crate) fn refusal(refusal: RequestError) -> Answer {
        match refusal {
            RequestError::Bad => {
                Answer::line("400 Bad Request", "not a request of HTTP/1.1 without a body")
            }
            RequestError::NotFound => {
                Answer::line("404 Not Found", &format!("the pages are {}", PATHS.join(", ")))
            }
            RequestError::Method => Answer::line("405 Method Not Allowed", "only GET and HEAD"),
            RequestError::TooLarge => Answer::line(
                "431 Request Header Fields Too Large",
                &format!("a request may have {HEAD_MAX} bytes and {HEADERS_MAX} headers"),
            ),
        }
    }

    /// Returns the bytes of the answer, without its body if it is for a `HEAD`.
    pub(crate) fn bytes(&self, head_only: bool, closes: bool) -> Vec<u8> {
        let Answer { status, content_type, body } = self;
        let mut head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Cache-Control: no-store\r\n",
            body.len()
        );
        if status.starts_with("405") {
            head.push_str("Allow: GET, HEAD\r\n");
        }
        head.push_str(if closes { "Connection: close\r\n\r\n" } else { "\r\n" });
        if !head_only {
            head.push_str(body);
        }
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(head: &str) -> Result<Option<PageRequest>, RequestError> {
        parse(format!("{}\r\n\r\n", head.replace('\n', "\r\n")).as_bytes())
    }

    fn page(head: &str) -> Page {
        request(head).expect("it is answered").expect("it is complete").page
    }

    #[test]
    fn a_request_names_its_page_its_method_and_whether_another_follows() {
        let cases = [
            ("GET /metrics HTTP/1.1\nHost: a", false, false),
            ("HEAD /metrics?x=1 HTTP/1.1\nhost:a", true, false),
            ("\nHEAD /metrics HTTP/1.1\nHost: a", true, false),
            ("GET http://a:1/metrics HTTP/1.1\nHost: a", false, false),
            ("GET /metrics HTTP/1.1\nHost: a\nConnection: Keep-Alive, Close", false, true),
            ("GET /metrics HTTP/1.0", false, true),
            ("GET /metrics HTTP/1.1\nHost: a\nContent-Length: 0", false, false),
        ];
        for (head, head_only, closes) in cases {
            let page = Page::Metrics { open_metrics: false };
            assert_eq!(request(head), Ok(Some(PageRequest { page, closes })), "{head}");
            assert_eq!(is_head(head.as_bytes()), head_only, "{head}");
        }
        assert_eq!(page("GET /healthz HTTP/1.1\nHost: a"), Page::Health);
        assert_eq!(page("GET /readyz HTTP/1.1\nHost: a"), Page::Ready);
    }

    #[test]
    fn what_cannot_be_answered_is_refused_with_its_reason() {
        let long = format!("GET /{} HTTP/1.1\nHost: a", "x".repeat(HEAD_MAX));
        let many = format!("GET / HTTP/1.1\nHost: a{}", "\nA: b".repeat(HEADERS_MAX));
        let cases = [
            ("GET /metrics HTTP/1.1", RequestError::Bad),
            ("GET /metrics HTTP/1.1\nHost: a\nHost: b", RequestError::Bad),
            ("GET /metrics HTTP/1.1\nHost: a\nContent-Length: 1", RequestError::Bad),
            ("GET /metrics HTTP/1.1\nHost: a\nTransfer-Encoding: chunked", RequestError::Bad),
            ("GET /metrics HTTP/2.0\nHost: a", RequestError::Bad),
            ("GET  /metrics", RequestError::Bad),
            ("\u{1}\u{2}", RequestError::Bad),
            ("GET / HTTP/1.1\nHost: a", RequestError::NotFound),
            ("GET /metrics/ HTTP/1.1\nHost: a", RequestError::NotFound),
            ("POST /metrics HTTP/1.1\nHost: a", RequestError::Method),
            ("POST /metrics HTTP/1.1\nHost: a\nContent-Length: 1", RequestError::Method),
            ("OPTIONS * HTTP/1.1\nHost: a", RequestError::Method),
            (&long, RequestError::TooLarge),
            (&many, RequestError::TooLarge),
        ];
        for (head, refusal) in cases {
            assert_eq!(request(head), Err(refusal), "{head}");
        }
        assert_eq!(parse(&[b'A'; HEAD_MAX]), Err(RequestError::TooLarge), "it never ends");
    }

    #[test]
    fn a_request_that_is_not_complete_is_waited_for() {
        let whole = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n";
        for len in 0..whole.len() {
            assert_eq!(parse(&whole[..len]), Ok(None), "{len} bytes");
        }
        assert!(parse(whole).unwrap().is_some());
    }

    #[test]
    fn open_metrics_is_for_clients_that_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,\
                          text/plain;version=0.0.4;q=0.4,*/*;q=0.2";
        let cases = [
            (prometheus, true),
            ("application/openmetrics-text", true),
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", true),
            ("application/openmetrics-text;version=2.0.0", false),
            ("application/openmetrics-text;q=0", false),
            ("text/plain, application/openmetrics-text;q=0.5", false),
            ("*/*", false),
            ("text/html;q=x", false),
            ("", false),
        ];
        for (accept, open_metrics) in cases {
            let head = format!("GET /metrics HTTP/1.1\nHost: a\nAccept: {accept}");
            assert_eq!(page(&head), Page::Metrics { open_metrics }, "{accept}");
        }
    }

    #[test]
    fn an_answer_has_its_length_and_a_head_no_body() {
        let answer = Answer::line("200 OK", "ok");
        let text = String::from_utf8(answer.bytes(false, true)).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "ok\n");
        assert!(head.contains("\r\nContent-Length: 3") && head.ends_with("Connection: close"));
        let head = String::from_utf8(answer.bytes(true, false)).unwrap();
        assert!(head.contains("\r\nContent-Length: 3") && head.ends_with("\r\n\r\n"), "{head}");
        let refused = Answer::refusal(RequestError::Method).bytes(false, true);
        assert!(String::from_utf8(refused).unwrap().contains("\r\nAllow: GET, HEAD\r\n"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(input in prop::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&input);
            let _ = parse(&[b"GET /metrics HTTP/1.1\r\nHost: a\r\n".as_slice(), &input].concat());
        }
    }
}
