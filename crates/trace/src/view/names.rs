//! The spelling of connections and operations in JSON: `"c7.1"` and `"recv"`, in every view.

use proactor::keys::ConnId;
use proactor_record::OpKind;
use serde::{Serialize, Serializer};

use crate::event::Kinds;

pub(super) fn conn<S: Serializer>(conn: &ConnId, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("c{conn}"))
}

pub(super) fn some_conn<S: Serializer>(of: &Option<ConnId>, to: S) -> Result<S::Ok, S::Error> {
    of.map(|conn| format!("c{conn}")).serialize(to)
}

pub(super) fn op<S: Serializer>(op: &OpKind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(op.name())
}

pub(super) fn kinds<S: Serializer>(kinds: &Kinds, to: S) -> Result<S::Ok, S::Error> {
    kinds.names().serialize(to)
}
