"""`tf.train.Example` without TensorFlow: the two kinds of list that records use."""

from functools import lru_cache

from google.protobuf import descriptor_pb2
from google.protobuf import descriptor_pool
from google.protobuf import message_factory


@lru_cache
def example_class():
    """Returns the message class; in a pool of its own, as TensorFlow has the same."""
    file = descriptor_pb2.FileDescriptorProto(
        name="segkit/example.proto", package="segkit", syntax="proto3"
    )
    field = descriptor_pb2.FieldDescriptorProto

    def add(owner, name, number, kind, type_name=None, repeated=False, oneof=None):
        owner.field.add(
            name=name,
            number=number,
            type=kind,
            type_name=type_name,
            label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            oneof_index=oneof,
        )

    add(file.message_type.add(name="BytesList"), "value", 1, field.TYPE_BYTES, repeated=True)
    add(file.message_type.add(name="Int64List"), "value", 1, field.TYPE_INT64, repeated=True)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    add(feature, "bytes_list", 1, field.TYPE_MESSAGE, ".segkit.BytesList", oneof=0)
    add(feature, "int64_list", 3, field.TYPE_MESSAGE, ".segkit.Int64List", oneof=0)
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    add(entry, "key", 1, field.TYPE_STRING)
    add(entry, "value", 2, field.TYPE_MESSAGE, ".segkit.Feature")
    add(features, "feature", 1, field.TYPE_MESSAGE, ".segkit.Features.FeatureEntry", repeated=True)
    example = file.message_type.add(name="Example")
    add(example, "features", 1, field.TYPE_MESSAGE, ".segkit.Features")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("segkit.Example"))
