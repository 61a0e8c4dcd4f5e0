import msgspec

from edge_agent.decide.variants import Device, Lack, Unfit, choose_variant, choose_variants
from shared.bundle.manifest import Requirements
from tests.edge_agent.control.generations import ref
from tests.shared.bundle.bundles import bundle

MANIFEST, _, DIGEST, _ = bundle(memory=100)


def needing(**requirements):
    variants = tuple(
        msgspec.structs.replace(variant, requirements=Requirements(**requirements)) for variant in MANIFEST.variants
    )
    return msgspec.structs.replace(MANIFEST, variants=variants)


def test_the_preferred_variant_else_the_first_that_fits():
    assert choose_variant(MANIFEST, Device(preferred="cpu-int8")) == "cpu-int8"
    assert choose_variant(MANIFEST, Device(preferred="cuda-fp16")) == "cpu-fp32"
    assert choose_variant(MANIFEST, Device()) == "cpu-fp32"


def test_what_the_cloud_names_is_taken_or_nothing():
    assert choose_variant(MANIFEST, Device(preferred="cpu-int8"), wanted="cpu-fp32") == "cpu-fp32"
    assert choose_variant(MANIFEST, Device(), wanted="npu").reason is Lack.UNKNOWN


def test_each_lack_is_named():
    assert choose_variant(MANIFEST, Device(memory_bytes=99)).reason is Lack.MEMORY
    assert choose_variant(MANIFEST, Device(runtimes=frozenset({"torch"}))).reason is Lack.RUNTIME
    needy = needing(features=("avx512_vnni",))
    assert "avx512_vnni" in choose_variant(needy, Device()).detail
    have = Device(features=frozenset({"CPUExecutionProvider", "avx512_vnni"}))
    assert choose_variant(needy, have) == "cpu-fp32"
    gpu = needing(providers=("CUDAExecutionProvider",))
    assert choose_variant(gpu, Device()).reason is Lack.FEATURES


def test_a_variant_that_does_not_fit_makes_room_for_one_that_does():
    large, small = MANIFEST.variants
    large = msgspec.structs.replace(large, requirements=Requirements(memory_bytes=1000))
    manifest = msgspec.structs.replace(MANIFEST, variants=(large, small))
    assert choose_variant(manifest, Device(preferred="cpu-fp32", memory_bytes=500)) == "cpu-int8"


def test_each_model_fits_the_memory_alone_and_together_they_need_not():
    other, _, other_digest, _ = bundle("ner-zh", memory=100)
    manifests = {DIGEST: MANIFEST, other_digest: other}
    models = (ref(DIGEST), ref(other_digest, "ner-zh"))
    assert choose_variants(models, manifests, Device(memory_bytes=100)) == {
        DIGEST: "cpu-fp32",
        other_digest: "cpu-fp32",
    }
    unfit = choose_variants(models, manifests, Device(memory_bytes=99))
    assert unfit == (models[0], Unfit(reason=Lack.MEMORY, detail="cpu-fp32 needs 100 B of memory, 99 B are allowed"))
