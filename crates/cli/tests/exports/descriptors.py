"""Holds a trace against the descriptors that Perfetto publishes (PyPI: perfetto).

Ends with status 77 if they are not here, with 1 and a sentence at what is wrong; else prints what is
in the trace, as JSON."""

import collections
import json
import sys

try:
    from google.protobuf.unknown_fields import UnknownFieldSet
    from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)


def known(message, path):
    """Fails at a field that the descriptors do not have, at any depth."""
    for field in UnknownFieldSet(message):
        sys.exit(f"unknown field {field.field_number} in {path}")
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        repeated = not hasattr(value, "ListFields")
        for one in value if repeated else [value]:
            known(one, f"{path}.{field.name}")


trace = proto.Trace()
trace.ParseFromString(open(sys.argv[1], "rb").read())
known(trace, "Trace")

event_type = proto.TrackEvent
tracks, depth, names, keys = {}, collections.Counter(), {}, {}
kinds, slices, instants, counters = collections.Counter(), collections.Counter(), collections.Counter(), collections.Counter()
begun, ended, annotated, last = set(), set(), set(), 0
for at, packet in enumerate(trace.packet):
    if at == 0 and not (packet.first_packet_on_sequence and packet.sequence_flags & proto.TracePacket.SEQ_INCREMENTAL_STATE_CLEARED):
        sys.exit("the first packet does not say that it is")
    if not packet.trusted_packet_sequence_id or not packet.sequence_flags & proto.TracePacket.SEQ_NEEDS_INCREMENTAL_STATE:
        sys.exit(f"packet {at} belongs to no sequence, or needs no names")
    names.update((one.iid, one.name) for one in packet.interned_data.event_names)
    keys.update((one.iid, one.name) for one in packet.interned_data.debug_annotation_names)
    if packet.HasField("track_descriptor"):
        track = packet.track_descriptor
        if track.uuid in tracks:
            sys.exit(f"track {track.name!r} has the uuid of {tracks[track.uuid].name!r}")
        if track.HasField("parent_uuid") and track.parent_uuid not in tracks:
            sys.exit(f"track {track.name!r} has a parent that is not there")
        tracks[track.uuid] = track
    if not packet.HasField("track_event"):
        continue
    event = packet.track_event
    track = tracks.get(event.track_uuid) or sys.exit(f"packet {at} is on no track")
    if packet.timestamp < last:
        sys.exit(f"packet {at} is earlier than the one before it")
    last = packet.timestamp
    kinds[event_type.Type.Name(event.type)] += 1
    annotated.update(keys[one.name_iid] for one in event.debug_annotations)
    if event.type == event_type.TYPE_COUNTER:
        if not track.HasField("counter"):
            sys.exit(f"{track.name!r} is no counter")
        counters[track.name] += 1
    elif event.type == event_type.TYPE_SLICE_BEGIN:
        depth[event.track_uuid] += 1
        slices[f"{track.name}: {names[event.name_iid]}"] += 1
    elif event.type == event_type.TYPE_SLICE_END:
        depth[event.track_uuid] -= 1
        if depth[event.track_uuid] < 0:
            sys.exit(f"a slice of {track.name!r} ends that has not begun")
    elif event.type == event_type.TYPE_INSTANT:
        instants[f"{track.name}: {names[event.name_iid]}"] += 1
    else:
        sys.exit(f"packet {at} is of a type that is not used")
    begun.update(event.flow_ids)
    for flow in event.terminating_flow_ids:
        if flow not in begun or flow in ended:
            sys.exit(f"flow {flow} ends without a begin, or twice")
        ended.add(flow)
if any(depth.values()):
    sys.exit("a slice has not ended")
print(json.dumps({
    "tracks": [track.name or track.process.process_name or track.thread.thread_name for track in tracks.values()],
    "kinds": kinds, "slices": slices, "instants": instants, "counters": counters,
    "flows_begun": len(begun), "flows_ended": len(ended), "annotated": sorted(annotated),
}))
