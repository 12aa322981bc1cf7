//! The numbers of the fields that the export writes, by message, and the values of enumerations.

// `Trace`
pub(super) const PACKET: u32 = 1;
// `TracePacket`
pub(super) const TIMESTAMP: u32 = 8;
pub(super) const SEQUENCE: u32 = 10;
pub(super) const TRACK_EVENT: u32 = 11;
pub(super) const INTERNED: u32 = 12;
pub(super) const SEQUENCE_FLAGS: u32 = 13;
pub(super) const DESCRIPTOR: u32 = 60;
pub(super) const FIRST: u32 = 87;
// `TrackDescriptor`
pub(super) const UUID: u32 = 1;
pub(super) const TRACK_NAME: u32 = 2;
pub(super) const PROCESS: u32 = 3;
pub(super) const THREAD: u32 = 4;
pub(super) const PARENT: u32 = 5;
pub(super) const COUNTER: u32 = 8;
pub(super) const ORDERING: u32 = 11;
pub(super) const RANK: u32 = 12;
pub(super) const DESCRIPTION: u32 = 14;
// `ProcessDescriptor`
pub(super) const PID: u32 = 1;
pub(super) const PROCESS_NAME: u32 = 6;
// `ThreadDescriptor`
pub(super) const THREAD_PID: u32 = 1;
pub(super) const TID: u32 = 2;
pub(super) const THREAD_NAME: u32 = 5;
// `CounterDescriptor`
pub(super) const UNIT: u32 = 3;
// `TrackEvent`
pub(super) const ANNOTATION: u32 = 4;
pub(super) const TYPE: u32 = 9;
pub(super) const NAME_ID: u32 = 10;
pub(super) const TRACK: u32 = 11;
pub(super) const VALUE: u32 = 30;
pub(super) const FLOW: u32 = 47;
pub(super) const LAST_FLOW: u32 = 48;
// `DebugAnnotation`
pub(super) const KEY_ID: u32 = 1;
pub(super) const BOOL: u32 = 2;
pub(super) const UINT: u32 = 3;
pub(super) const INT: u32 = 4;
pub(super) const TEXT: u32 = 6;
// `InternedData`
pub(super) const EVENT_NAMES: u32 = 2;
pub(super) const KEYS: u32 = 3;
// `EventName` and `DebugAnnotationName`
pub(super) const ID: u32 = 1;
pub(super) const INTERNED_NAME: u32 = 2;

// `TrackEvent.Type`
pub(super) const SLICE_BEGIN: u64 = 1;
pub(super) const SLICE_END: u64 = 2;
pub(super) const INSTANT: u64 = 3;
pub(super) const COUNTER_VALUE: u64 = 4;
// `SEQ_INCREMENTAL_STATE_CLEARED` and `SEQ_NEEDS_INCREMENTAL_STATE`
pub(super) const CLEARED: u64 = 1;
pub(super) const NEEDS_STATE: u64 = 2;
// `ChildTracksOrdering::EXPLICIT`
pub(super) const BY_RANK: u64 = 3;
// `CounterDescriptor::UNIT_COUNT`
pub(super) const PLAIN_COUNT: u64 = 2;
