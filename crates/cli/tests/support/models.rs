//! The tests of one command on every model: the ways to serve, and a test of each.

use super::support::server::PROACTOR;
use super::support::{Launch, io_uring_refused, skip};

/// One way to serve, as `--model` and `--kernel` have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Model(pub(crate) &'static str, pub(crate) Option<&'static str>);

impl Model {
    /// Itself, unless this host has no such thing.
    pub(crate) fn available(self) -> Option<Model> {
        let refused = io_uring_refused().filter(|_| self.0 == "uring");
        refused.iter().for_each(|reason| skip(reason));
        refused.is_none().then_some(self)
    }

    pub(crate) fn args(self, protocol: &'static str) -> Vec<&'static str> {
        let mut args = vec!["serve", "--model", self.0, "--protocol", protocol];
        if let Some(kernel) = self.1 {
            args.extend(["--kernel", kernel]);
        }
        if self.0 == "nonblocking" {
            args.extend(["--idle-sleep", "4ms"]);
        }
        args
    }

    /// A server of this protocol at a free port.
    pub(crate) fn serve(self, protocol: &'static str) -> Launch {
        Launch::new(PROACTOR, &self.args(protocol)).args(&["--listen", "127.0.0.1:0"])
    }
}

/// Makes a test of each scenario on each model.
macro_rules! on_every_model {
    ($scenarios:tt on $($place:ident: $model:expr,)+) => {
        const MODELS: &[Model] = &[$($model),+];
        $(mod $place { on_every_model!(@each $model, $scenarios); })+
    };
    (@each $model:expr, { $($scenario:ident,)+ }) => {
        use super::Model;
        $(#[test] fn $scenario() {
            if let Some(model) = $model.available() {
                super::$scenario(model);
            }
        })+
    };
}
