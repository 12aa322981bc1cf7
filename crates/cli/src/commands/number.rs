//! The numbers of the command line.

/// Returns a parser for a number from `min` to `max`.
pub(super) fn number<T: TryFrom<u64> + Clone + Send + Sync + 'static>(
    min: u64,
    max: u64,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| match max {
            u64::MAX => "write a whole number".to_owned(),
            max => format!("write a number from {min} to {max}"),
        })
    }
}
