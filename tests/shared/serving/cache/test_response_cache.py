import gc
import tracemalloc
from collections import OrderedDict

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from shared.serving.answer import Embedding, Entities, Entity, Label, Request, Tensors, Text
from shared.serving.cache.input_key import SECRET_BYTES, input_key
from shared.serving.cache.kept_size import owned, size_of
from shared.serving.cache.response_cache import (
    BOOKKEEPING,
    BYPASSED,
    HIT,
    MISS,
    TOO_LARGE,
    CacheMetrics,
    Identity,
    Place,
    ResponseCache,
)
from shared.serving.decide.caching import MOST_INPUT, Bypass, bypass

SECRET = b"k" * SECRET_BYTES
ONE = Identity("default", "mood", "1.0.0", "d1", "cpu-int8")


class World:
    def __init__(self):
        self.registry = CollectorRegistry()
        self.cache = ResponseCache(secret=SECRET, metrics=CacheMetrics(self.registry))

    def value(self, name, **labels):
        return self.registry.get_sample_value(name, labels) or 0.0


def ask(*texts, tensors=None, **parameters):
    return Request(id="r", tenant="default", model="mood", texts=texts or None, tensors=tensors, parameters=parameters)


GOOD = (Label(label="good", score=0.5, scores={"good": 0.5}),)
TASK = "text-classification"


def place(cache, request, identity=ONE):
    found = cache.place_of(request, identity)
    assert found is not None
    return found


def test_what_was_kept_is_found_under_its_own_version_alone():
    cache = World().cache
    cache.put(place(cache, ask("hello")), GOOD, TASK, most=10_000)
    found = cache.get(place(cache, ask("hello")))
    assert found is not None
    assert (found.results, found.task) == (GOOD, TASK)
    for field, other in (
        ("tenant", "acme"),
        ("name", "moods"),
        ("version", "1.0.1"),
        ("digest", "d2"),
        ("variant", "cpu-fp32"),
    ):
        assert cache.get(place(cache, ask("hello"), ONE._replace(**{field: other}))) is None
    assert cache.get(place(cache, ask("hello", truncate=True))) is None


TEXTS = st.lists(st.text(max_size=4), min_size=1, max_size=3).map(lambda texts: ask(*texts))
DTYPES = st.sampled_from(["<f4", "<f8", "<i4", "<i8", "|u1", "|b1"])
ARRAYS = st.one_of(
    st.tuples(DTYPES, st.sampled_from([(0,), (1,), (4,), (2, 2), (4, 1), ()]), st.integers(0, 2)).map(
        lambda drawn: np.full(drawn[1], drawn[2], dtype=drawn[0])
    ),
    st.lists(st.one_of(st.text(max_size=3), st.binary(max_size=3)), max_size=3).map(
        lambda each: np.array([*each, None], dtype=object)[:-1]
    ),
)
TENSORS = st.dictionaries(st.sampled_from(["a", "b", "ab"]), ARRAYS, min_size=1, max_size=2).map(
    lambda tensors: ask(tensors=tensors)
)
PARAMETERS = st.dictionaries(
    st.sampled_from(["truncate", "schema", "n"]),
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.floats(), st.text(max_size=3)),
    max_size=2,
)


def spelt(request):
    """Everything that makes a request what it is, in a form that compares."""
    tensors = request.tensors and {
        name: (array.dtype.str, array.shape, [repr(each) for each in array.ravel().tolist()])
        for name, array in request.tensors.items()
    }
    parameters = {name: (type(value).__name__, repr(value)) for name, value in request.parameters.items()}
    return request.texts, tensors and sorted(tensors.items()), sorted(parameters.items())


@settings(max_examples=400)
@given(st.one_of(TEXTS, TENSORS), st.one_of(TEXTS, TENSORS), PARAMETERS, PARAMETERS)
def test_equal_inputs_have_equal_keys_and_others_never(first, second, mine, others):
    first = msgspec.structs.replace(first, parameters=mine, id="a", priority=1, deadline=3.0)
    second = msgspec.structs.replace(second, parameters=others, id="b", privacy="local-only")
    assert (input_key(first, SECRET) == input_key(second, SECRET)) == (spelt(first) == spelt(second))


def test_a_key_is_nothing_without_its_secret():
    assert input_key(ask("hello"), SECRET) != input_key(ask("hello"), b"j" * SECRET_BYTES)


def test_the_order_of_tensors_and_their_layout_in_memory_do_not_matter():
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, dtype=np.int64)
    straight = input_key(ask(tensors={"a": a, "b": b}), SECRET)
    assert input_key(ask(tensors={"b": b, "a": np.asfortranarray(a)}), SECRET) == straight
    assert input_key(ask(tensors={"a": a.T, "b": b}), SECRET) != straight


@pytest.mark.parametrize(
    "request_",
    [ask("\ud800"), ask("x", n=2**70), ask("x", n=object()), ask(tensors={"a": np.array([object()], dtype=object)})],
)
def test_what_cannot_be_told_apart_for_certain_has_no_key(request_):
    world = World()
    assert world.cache.place_of(request_, ONE) is None
    assert world.value("tideline_cache_total", result=BYPASSED) == 1


def test_chance_and_large_inputs_pass_by():
    assert bypass({"temperature": 0.7, "seed": 3}, size=1) is Bypass.CHANCE
    for wrong in (float("nan"), "0", True, False, [0]):
        assert bypass({"temperature": wrong}, size=1) is Bypass.CHANCE
    for greedy in ({}, {"temperature": 0}, {"temperature": 0.0, "top_p": 0.5}, {"temperature": None}):
        assert bypass(greedy, size=MOST_INPUT) is None
        assert bypass(greedy, size=MOST_INPUT + 1) is Bypass.LARGE
    cache = World().cache
    assert cache.place_of(ask("x" * (MOST_INPUT + 1)), ONE) is None
    assert cache.place_of(ask(tensors={"a": np.zeros(MOST_INPUT + 1, dtype=np.int8)}), ONE) is None


def test_counters_tell_of_hits_misses_bytes_and_evictions():
    world = World()
    cache, most = world.cache, 3 * (size_of(GOOD) + BOOKKEEPING) + 50
    for i in range(5):
        cache.put(place(cache, ask(str(i))), GOOD, TASK, most=most)
    assert [cache.get(place(cache, ask(str(i)))) is not None for i in range(5)] == [False, False, True, True, True]
    assert world.value("tideline_cache_evicted_total") == 2
    assert world.value("tideline_cache_entries") == 3
    assert 0 < world.value("tideline_cache_bytes") <= most
    assert not cache.put(place(cache, ask("large")), (Text(text="x" * most),), TASK, most=most)
    assert world.value("tideline_cache_total", result=TOO_LARGE) == 1
    assert world.value("tideline_cache_entries") == 3
    cache.looked(ONE, MISS, 0.001)
    cache.spent(ONE, 0.001)
    cache.looked(ONE, HIT, 0.002)
    hits, misses = cache.counted("default", "mood", "1.0.0")
    assert (hits.count, hits.ns, misses.count, misses.ns) == (1, 2_000_000, 1, 2_000_000)
    cache.bound({ONE: 0})
    assert (world.value("tideline_cache_entries"), world.value("tideline_cache_bytes")) == (0, 0)
    assert cache.counted("default", "mood", "1.0.0") == (hits, misses)
    cache.bound({})
    assert cache.identities == ()
    assert cache.counted("default", "mood", "1.0.0")[0].count == 0


IDENTITIES = [ONE, ONE._replace(digest="d2")]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 1), st.integers(0, 9), st.integers(0, 3000)),
        st.tuples(st.just("get"), st.integers(0, 1), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("bound"), st.integers(0, 2), st.just(0), st.integers(0, 6000)),
    ),
    max_size=60,
)


@given(STEPS, st.integers(600, 6000))
def test_it_is_what_a_plain_list_of_recent_use_would_be_and_never_weighs_more(steps, most):
    world = World()
    model = [OrderedDict(), OrderedDict()]
    for verb, which, key, size in steps:
        if verb == "put":
            results = (Text(text="x" * size),)
            weight = size_of(results) + BOOKKEEPING
            kept = world.cache.put(Place(IDENTITIES[which], bytes([key])), results, TASK, most=most)
            assert kept == (weight <= most)
            if kept:
                model[which].pop(key, None)
                model[which][key] = weight
                while sum(model[which].values()) > most:
                    model[which].popitem(last=False)
        elif verb == "get":
            found = world.cache.get(Place(IDENTITIES[which], bytes([key])))
            assert (found is not None) == (key in model[which])
            if found is not None:
                model[which].move_to_end(key)
        else:
            # 0 and 1 forget one shelf, 2 none; what stays is held to `size`.
            world.cache.bound({each: size for i, each in enumerate(IDENTITIES) if i != which})
            for i in range(2):
                while model[i] and (i == which or sum(model[i].values()) > size):
                    model[i].popitem(last=False)
        assert world.value("tideline_cache_bytes") == sum(sum(each.values()) for each in model)
        assert world.value("tideline_cache_entries") == sum(map(len, model))
    for i, identity in enumerate(IDENTITIES):
        assert {k for k in range(10) if world.cache.get(Place(identity, bytes([k])))} == set(model[i])


def kinds(i):
    """An answer of each kind, sharing nothing with another."""
    word = "w" * (i % 40 + 1)
    label = Label(label=word, score=i / 3, scores={f"{word}{n}": n / (i + 1) for n in range(4)})
    entity = Entity(type=f"T{word}", start=1000 + i, end=2000 + i, text=f"e{word}", score=i / 7)
    strings = np.array([f"{word}{i}", f"{i}{word}"], dtype=object)
    return [
        (label,),
        (Entities(entities=(entity,)), Entities(entities=())),
        (Embedding(embedding=np.full(96 + i % 5, i, dtype=np.float32), tokens=300 + i),),
        (Tensors(outputs={f"o{word}": np.full((3, i % 7), i, dtype=np.float64), f"s{word}": strings}),),
        (Text(text=f"{word} {i}", finish="stop", tokens=1000 + i),),
    ]


def test_what_it_says_it_weighs_is_what_it_takes():
    world = World()
    gc.collect()
    tracemalloc.start()
    try:
        for i in range(300):
            for n, results in enumerate(kinds(i)):
                world.cache.put(place(world.cache, ask(f"{i} {n}")), results, TASK, most=1 << 30)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    told = world.value("tideline_cache_bytes")
    assert world.value("tideline_cache_entries") == 1500
    assert taken <= told <= 1.4 * taken


def test_a_row_of_a_batch_is_kept_without_the_batch_and_nobody_writes_to_it():
    batch = np.ones((1000, 8), dtype=np.float32)
    results = (Embedding(embedding=batch[3]), Tensors(outputs={"y": batch[:2]}))
    kept = owned(results)
    assert size_of(results) == size_of(kept) < batch.nbytes
    for array in (kept[0].embedding, kept[1].outputs["y"]):
        assert array.base is None
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 2.0
    batch[3] = 7.0
    assert kept[0].embedding.max() == 1.0
