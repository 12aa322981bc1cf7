//! The options of `serve` for polling instead of sleeping.

use std::time::Duration;

use proactor::Model;
use proactor::polling::Polling;
use proactor_models::EPOLL_ONESHOT;
use proactor_report::units;

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct PollingArgs {
    /// Poll for up to this time before each sleep, for example 50us: replies come sooner, and the
    /// CPU is used meanwhile. The time adapts: where clients pause for longer, the server sleeps at
    /// once. Only for uring, epoll, epoll-et and epoll-oneshot
    #[arg(long, value_name = "TIME", value_parser = up_to_a_second, help_heading = "Polling")]
    spin: Option<Duration>,

    /// Have a kernel thread take what is submitted, which sleeps when nothing was submitted for
    /// this time. It uses a CPU of its own while it is awake. Implies --model uring
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true,
          default_missing_value = "10ms", value_parser = up_to_a_second, help_heading = "Polling")]
    sqpoll: Option<Duration>,

    /// Have a ring that waits poll the network devices for up to this time, for example 50us
    /// (Linux 6.9). Loopback has none. Implies --model uring
    #[arg(long, value_name = "TIME", value_parser = up_to_a_second, help_heading = "Polling")]
    napi: Option<Duration>,
}

impl PollingArgs {
    pub(super) fn polling(self) -> Polling {
        Polling { spin: self.spin, sqpoll: self.sqpoll, napi: self.napi }
    }

    /// Returns the model that alone has what is asked for, if it is not the choice of `auto`.
    pub(super) fn implied_model(self) -> Option<Model> {
        self.sqpoll.or(self.napi).map(|_| Model::URING)
    }

    /// Returns what is wrong with the options for this model.
    pub(super) fn wrong_for(self, model: Model) -> Option<String> {
        let ring = &[Model::URING][..];
        let spin = &[Model::URING, Model::EPOLL, Model::EPOLL_ET, EPOLL_ONESHOT][..];
        let options = [
            ("--spin", self.spin, spin),
            ("--sqpoll", self.sqpoll, ring),
            ("--napi", self.napi, ring),
        ];
        let mut wrong = options.into_iter().filter(|(_, _, models)| !models.contains(&model));
        let (option, _, models) = wrong.find(|(_, asked, _)| asked.is_some())?;
        let names: Vec<&str> = models.iter().map(|model| model.name()).collect();
        Some(format!("{option} is only for {}: {model} has no such wait", names.join(", ")))
    }
}

fn up_to_a_second(text: &str) -> Result<Duration, String> {
    match units::parse_positive_duration(text)? {
        time if time <= Duration::from_secs(1) => Ok(time),
        _ => Err(format!("invalid duration `{text}`: the maximum is 1s")),
    }
}
