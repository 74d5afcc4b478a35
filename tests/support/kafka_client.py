"""A Kafka client for the scenario tests: commands as JSON lines on stdin, answers on stdout: what a user of the library sees.

Run as ``python kafka_client.py LIBRARY BOOTSTRAP``, in the client's namespace. Libraries: confluent (librdkafka), aiokafka,
kafka-python. A command is ``{"op": NAME, ...}``; an answer ``{"ok": ...}`` or ``{"error": NAME}``. Errors have Kafka's names.
Clients live on between commands, so that an edit of policy meets them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

TIMEOUT_S = 20.0
Answer = dict[str, Any]


class Confluent:
    """librdkafka."""

    def __init__(self, bootstrap: str) -> None:
        import confluent_kafka

        self.kafka = confluent_kafka
        self.base = {
            "bootstrap.servers": bootstrap,
            "socket.timeout.ms": 10000,
        }
        self.producers: dict[tuple[Any, ...], Any] = {}

    def producer(self, **config: Any) -> Any:
        key = tuple(sorted(config.items()))
        if key not in self.producers:
            settings = {**self.base, "message.timeout.ms": 15000, "linger.ms": 0, **config}
            self.producers[key] = self.kafka.Producer(settings)
        return self.producers[key]

    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        if ("admin",) not in self.producers:
            self.producers["admin",] = AdminClient(self.base)
        return self.producers["admin",]

    def produce(self, topics: list[str], count: int = 1, size: int = 10, **config: Any) -> Answer:
        producer = self.producer(**config)
        outcome: dict[str, str] = {}

        def delivered(error: Any, message: Any) -> None:
            outcome[message.topic()] = error.name() if error else "ok"

        for topic in topics:
            try:
                for index in range(count):
                    producer.produce(topic, b"x" * size, key=str(index).encode(), on_delivery=delivered)
            except self.kafka.KafkaException as error:  # it knows already that it may not
                outcome[topic] = error.args[0].name()
        producer.flush(TIMEOUT_S)
        return {"ok": outcome}

    def consume(self, topic: str, count: int = 1, patience_s: float = TIMEOUT_S, **config: Any) -> Answer:
        """Read from the beginning, without a group."""
        consumer = self.kafka.Consumer(
            {**self.base, "group.id": "unused", "enable.auto.commit": False, "enable.partition.eof": True, **config}
        )
        try:
            consumer.assign([self.kafka.TopicPartition(topic, 0, 0)])
            return self._poll(consumer, count, patience_s)
        finally:
            consumer.close()

    def group(self, topics: list[str], group: str, count: int = 1, **config: Any) -> Answer:
        """Read as a member of a group, and commit."""
        settings = {
            **self.base,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "session.timeout.ms": 6000,
            "max.poll.interval.ms": 6000,
            **config,
        }
        consumer = self.kafka.Consumer(settings)
        try:
            consumer.subscribe(topics)
            answer = self._poll(consumer, count)
            if "ok" in answer:
                consumer.commit(asynchronous=False)
            return answer
        except self.kafka.KafkaException as error:
            return {"error": error.args[0].name()}
        finally:
            consumer.close()

    def _poll(self, consumer: Any, count: int, patience_s: float = TIMEOUT_S) -> Answer:
        received = 0
        deadline = time.monotonic() + patience_s
        while received < count and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            if message.error():
                if message.error().name() == "_PARTITION_EOF":
                    break
                return {"error": message.error().name()}
            received += 1
        return {"ok": received} if received else {"error": "NOTHING"}

    def metadata(self, topic: str | None = None) -> Answer:
        try:
            found = self.admin().list_topics(topic, timeout=10)
        except self.kafka.KafkaException as error:
            return {"error": error.args[0].name()}
        topics = found.topics.values()
        return {"ok": {one.topic: one.error.name() if one.error else "ok" for one in topics if not one.topic.startswith("__")}}

    def create(self, topics: list[str]) -> Answer:
        from confluent_kafka.admin import NewTopic

        return self._futures(self.admin().create_topics([NewTopic(topic, 1, 1) for topic in topics], request_timeout=10))

    def delete(self, topics: list[str]) -> Answer:
        return self._futures(self.admin().delete_topics(topics, request_timeout=10))

    def describe_config(self, topic: str) -> Answer:
        from confluent_kafka.admin import ConfigResource, ResourceType

        return self._futures(self.admin().describe_configs([ConfigResource(ResourceType.TOPIC, topic)], request_timeout=10))

    def allow(self, acls: list[list[str]]) -> Answer:
        """Replace all ACLs of User:ANONYMOUS. Each: resource type, name, pattern, operation."""
        from confluent_kafka.admin import (
            AclBinding,
            AclBindingFilter,
            AclOperation,
            AclPermissionType,
            ResourcePatternType,
            ResourceType,
        )

        every = AclBindingFilter(
            ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY
        )
        for future in self.admin().delete_acls([every]).values():
            future.result(TIMEOUT_S)
        bindings = [
            AclBinding(
                ResourceType[kind],
                name,
                ResourcePatternType[pattern],
                "User:ANONYMOUS",
                "*",
                AclOperation[operation],
                AclPermissionType.ALLOW,
            )
            for kind, name, pattern, operation in acls
        ]
        for future in self.admin().create_acls(bindings).values() if bindings else ():
            future.result(TIMEOUT_S)
        return {"ok": len(bindings)}

    def groups(self) -> Answer:
        try:
            found = self.admin().list_consumer_groups(request_timeout=10).result()
        except self.kafka.KafkaException as error:
            return {"error": error.args[0].name()}
        return {"ok": sorted(one.group_id for one in found.valid)}

    def delete_groups(self, groups: list[str]) -> Answer:
        return self._futures(self.admin().delete_consumer_groups(groups, request_timeout=10))

    def transaction(self, topics: list[str], transactional_id: str, group: str = "", source: str = "") -> Answer:
        """Produce in a transaction; with a group, commit an offset of ``source`` in it."""
        producer = self.producer(**{"transactional.id": transactional_id})
        try:
            producer.init_transactions(15)
            producer.begin_transaction()
            outcome: dict[str, str] = {}
            for topic in topics:
                producer.produce(topic, b"x", on_delivery=lambda e, m: outcome.update({m.topic(): e.name() if e else "ok"}))
            producer.flush(10)
            if group:
                consumer = self.kafka.Consumer({**self.base, "group.id": group})
                offsets = [self.kafka.TopicPartition(source, 0, 1)]
                producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), 10)
                consumer.close()
            if any(one != "ok" for one in outcome.values()):
                producer.abort_transaction(10)
                return {"ok": outcome}
            producer.commit_transaction(10)
            return {"ok": outcome}
        except self.kafka.KafkaException as error:
            del self.producers["transactional.id", transactional_id]
            return {"error": error.args[0].name()}

    def _futures(self, futures: dict[Any, Any]) -> Answer:
        outcome = {}
        for key, future in futures.items():
            try:
                future.result(TIMEOUT_S)
                outcome[getattr(key, "name", key)] = "ok"
            except self.kafka.KafkaException as error:
                outcome[getattr(key, "name", key)] = error.args[0].name()
        return {"ok": outcome}


class Aiokafka:
    """aiokafka."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self.loop = asyncio.new_event_loop()

    def produce(self, topics: list[str], count: int = 1, size: int = 10, **config: Any) -> Answer:
        return self.loop.run_until_complete(self._produce(topics, count, size, config))

    async def _produce(self, topics: list[str], count: int, size: int, config: dict[str, Any]) -> Answer:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, request_timeout_ms=10000, **config)
        await producer.start()
        outcome = {}
        try:
            for topic in topics:
                try:
                    for _ in range(count):
                        await producer.send_and_wait(topic, b"x" * size, partition=0)
                    outcome[topic] = "ok"
                except Exception as error:
                    outcome[topic] = _class_name(error)
        finally:
            await producer.stop()
        return {"ok": outcome}

    def consume(self, topic: str, count: int = 1, patience_s: float = TIMEOUT_S, **config: Any) -> Answer:
        return self.loop.run_until_complete(self._consume(topic, None, count, patience_s, config))

    def group(self, topics: list[str], group: str, count: int = 1, **config: Any) -> Answer:
        return self.loop.run_until_complete(self._consume(topics[0], group, count, TIMEOUT_S, config))

    async def _consume(self, topic: str, group: str | None, count: int, patience_s: float, config: dict[str, Any]) -> Answer:
        from aiokafka import AIOKafkaConsumer, TopicPartition

        consumer = AIOKafkaConsumer(
            *([topic] if group else []),
            bootstrap_servers=self.bootstrap,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            session_timeout_ms=6000,
            max_poll_interval_ms=6000,
            request_timeout_ms=10000,
            **config,
        )
        try:
            await consumer.start()
            if not group:
                consumer.assign([TopicPartition(topic, 0)])
                await consumer.seek_to_beginning()
            received = 0
            while received < count:
                await asyncio.wait_for(consumer.getone(), patience_s)
                received += 1
            if group:
                await consumer.commit()
            return {"ok": received}
        except TimeoutError:
            return {"error": "NOTHING"}
        except Exception as error:
            return {"error": _class_name(error)}
        finally:
            await consumer.stop()


class KafkaPython:
    """kafka-python."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap

    def produce(self, topics: list[str], count: int = 1, size: int = 10, **config: Any) -> Answer:
        from kafka import KafkaProducer

        producer = KafkaProducer(bootstrap_servers=self.bootstrap, max_block_ms=10000, **config)
        outcome = {}
        try:
            for topic in topics:
                try:
                    for _ in range(count):
                        producer.send(topic, b"x" * size, partition=0).get(TIMEOUT_S)
                    outcome[topic] = "ok"
                except Exception as error:
                    outcome[topic] = _class_name(error)
        finally:
            producer.close(timeout=5)
        return {"ok": outcome}

    def consume(self, topic: str, count: int = 1, patience_s: float = TIMEOUT_S, **config: Any) -> Answer:
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, **config)
        try:
            consumer.assign([TopicPartition(topic, 0)])
            consumer.seek_to_beginning()
            received = 0
            deadline = time.monotonic() + patience_s
            while received < count and time.monotonic() < deadline:
                received += sum(map(len, consumer.poll(500).values()))
            return {"ok": min(received, count)} if received else {"error": "NOTHING"}
        except Exception as error:
            return {"error": _class_name(error)}
        finally:
            consumer.close()


def _class_name(error: Exception) -> str:
    """The library's name of an error as Kafka writes it: TopicAuthorizationFailedError -> TOPIC_AUTHORIZATION_FAILED."""
    name = type(error).__name__.removesuffix("Error")
    return "".join("_" + letter if letter.isupper() and index else letter for index, letter in enumerate(name)).upper()


LIBRARIES: dict[str, Callable[[str], Any]] = {"confluent": Confluent, "aiokafka": Aiokafka, "kafka-python": KafkaPython}


def main() -> None:
    client = LIBRARIES[sys.argv[1]](sys.argv[2])
    client.base = getattr(client, "base", {}) | json.loads(sys.argv[3])
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(client, command.pop("op"))(**command)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
