"""Artifacts to store, and faults to inject into the client."""

import botocore.exceptions


def make(store, key="artifacts/x/1", *, text="hello", bill=None, config=None):
    with store.create(
        key, kind="Thing", config=config or {"a": 1}, parents={}, code_version="c", bill=bill
    ) as writer:
        writer.path("sub/data.txt").write_text(text)
        writer.write_json("value.json", {"b": [1, 2.5], "a": None})
        return writer.commit()


def fail_calls(client, operation, code, when=lambda call: True):
    """Makes the client fail an operation before it is sent, when ``when(call number)``."""
    calls = []

    def fail(**_):
        calls.append(1)
        if when(len(calls)):
            raise botocore.exceptions.ClientError({"Error": {"Code": code}}, operation)

    client.meta.events.register(f"before-call.s3.{operation}", fail)
