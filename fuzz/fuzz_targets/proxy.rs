//! The PROXY protocol: any bytes must be read without a panic, wherever they are cut.

#![no_main]

use libfuzzer_sys::fuzz_target;
use proactor::proxy::parse;

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for cut in 0..bytes.len() {
        match (parse(&bytes[..cut]), &whole) {
            (Ok(None), _) => {}
            (part, whole) => assert_eq!(part, *whole, "cut at {cut}"),
        }
    }
    if let Ok(Some((len, _))) = whole {
        assert!(len <= bytes.len());
    }
});
