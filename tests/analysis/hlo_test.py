"""Collectives as read from HLO text: of texts, and of programs whose bytes are known by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec

from ist_jax.analysis.hlo import Collective, bytes_sent, collectives
from ist_jax.core.placement import AXIS, subnet_mesh


def test_collectives_are_read_from_text():
    text = """
  %all-to-all.3 = (f32[1,2,8]{2,1,0}, /*index=5*/f32[1,2,8]{2,1,0}) all-to-all(%a, %b), \
channel_id=1, replica_groups={{0,1}}
  %x = f32[1,2]{1,0} get-tuple-element(%all-to-all.3), index=0
  %psum.7 = bf16[10]{0} all-reduce(%y), channel_id=1, \
replica_groups=mesh['subnet'=4] {'subnet'}, to_apply=%add
  %ag = s8[4,16]{1,0} all-gather(%z), channel_id=2, replica_groups=[1,8]<=[8], dimensions={0}
  %ags = (f32[2]{0}, f32[8]{0}) all-gather-start(%z), channel_id=2, \
replica_groups=[1,4]<=[4], dimensions={0}
  %agd = f32[8]{0} all-gather-done(%ags)
  %agc = ((f32[2]{0}, f32[1]{0}), (f32[8]{0}, f32[4]{0})) all-gather-start(%z, %u), \
replica_groups=[1,4]<=[4], dimensions={0}
  %a2a = ((f32[8,4]{1,0}), f32[8,4]{1,0}) all-to-all-start(%z), channel_id=2, \
replica_groups={{0,1}}, dimensions={0}
  %rs = (f32[8]{0}, f32[4]{0}) reduce-scatter-start(%z), channel_id=2, \
replica_groups={{0,1}}, dimensions={0}
  %ars = f32[6]{0} all-reduce-start(%z), channel_id=2, replica_groups={{0,1}}, to_apply=%add
  %cps = (f32[3]{0}, f32[3]{0}, u32[], u32[]) collective-permute-start(%z), \
source_target_pairs={{0,1},{1,0}}
  %cp = f32[3]{0} collective-permute(%z), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %f8 = f8e4m3fn[16]{0} all-reduce(%y), channel_id=1, replica_groups={{0,1}}, to_apply=%add
"""
    assert collectives(text) == [
        Collective("all-to-all", 128, 2),
        Collective("all-reduce", 20, 4),
        Collective("all-gather", 64, 8),
        Collective("all-gather", 32, 4),
        Collective("all-gather", 48, 4),
        Collective("all-to-all", 128, 2),
        Collective("reduce-scatter", 16, 2),
        Collective("all-reduce", 24, 2),
        Collective("collective-permute", 12, 2),
        Collective("collective-permute", 12, 2),
        Collective("all-reduce", 16, 2),
    ]
    assert bytes_sent(text) == 64 + 30 + 56 + 24 + 36 + 64 + 16 + 24 + 12 + 12 + 16


def test_what_is_started_and_ended_separately_counts_once():
    text = """
%wrapped (p: f32[8]) -> f32[8] {
  %a = f32[8]{0} all-to-all(%p), replica_groups={{0,1}}, dimensions={0}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %s = ((f32[8]{0}), f32[8]{0}, s32[]) async-start(%x), calls=%wrapped
  %u = ((f32[8]{0}), f32[8]{0}, s32[]) async-update(%s), calls=%wrapped
  ROOT %d = f32[8]{0} async-done(%u), calls=%wrapped
}
"""
    assert collectives(text) == [Collective("all-to-all", 32, 2)]


def test_a_loops_condition_runs_once_more_than_its_body():
    text = """
%cond (c: f32[8]) -> pred[] {
  %r = f32[8]{0} all-reduce(%c), replica_groups={{0,1}}, to_apply=%add
}
%body (c: f32[8]) -> f32[8] {
  %a = f32[8]{0} all-to-all(%c), replica_groups={{0,1}}, dimensions={0}
}
ENTRY %main (x: f32[8]) -> f32[8] {
  %w = f32[8]{0} while(%x), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
}
"""
    assert sorted(collectives(text)) == [
        Collective("all-reduce", 32, 2, 6),
        Collective("all-to-all", 32, 2, 5),
    ]


@pytest.mark.parametrize(
    "text,says",
    [
        (
            "  %r = f32[8]{0} ragged-all-to-all(%a, %b), replica_groups={{0,1}}",
            "bytes of a ragged-all-to-all are not known",
        ),
        (
            "  %r = f32[8]{0} collective-broadcast-start(%a), replica_groups={{0,1}}",
            "bytes of a collective-broadcast are not",
        ),
        ("  %r = f32[8]{0} all-reduce(%a), replica_groups={}", "cannot read the replica groups"),
        (
            "ENTRY main {\n  r = f32[8]{0} all-reduce(a), replica_groups={{0,1}}\n}",
            "names its computations in a way",
        ),
    ],
)
def test_what_cannot_be_counted_is_an_error_and_never_left_out(text, says):
    with pytest.raises(ValueError, match=says):
        collectives(text)


def compiled(f, *shapes, num_devices=8):
    mesh = subnet_mesh(num_devices)
    g = jax.shard_map(
        f, mesh=mesh, in_specs=PartitionSpec(AXIS), out_specs=PartitionSpec(AXIS), check_vma=False
    )
    return (
        jax.jit(g)
        .lower(*[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes])
        .compile()
        .as_text()
    )


def test_a_program_without_loops_by_hand():
    """An all_to_all of 64 x 32 floats, an all_gather to 512 and a psum of 4, on 8 devices."""

    def f(x_64x32):
        exchanged = lax.all_to_all(x_64x32.reshape(8, 8, 32), AXIS, 0, 0).reshape(64, 32)
        everywhere = lax.all_gather(x_64x32[0] * 2, AXIS, tiled=True)
        return exchanged + everywhere.sum() + lax.psum(x_64x32[0, :4], AXIS).prod()

    text = compiled(f, (8 * 64, 32))
    assert sorted(collectives(text)) == [
        Collective("all-gather", 4 * 8 * 32, 8),
        Collective("all-reduce", 4 * 4, 8),
        Collective("all-to-all", 4 * 64 * 32, 8),
    ]
    assert bytes_sent(text) == 7 / 8 * (4 * 64 * 32 + 4 * 8 * 32) + 2 * 7 / 8 * 16


def test_collectives_in_loops_count_as_often_as_the_loops_run():
    """A psum of 16 floats in 5 x 3 nested steps, an all_to_all of 16 floats in 5."""

    def f(x_8x2):
        def inner(c, _):
            return jnp.tanh(lax.psum(c, AXIS)), None

        def outer(c, _):
            c, _ = lax.scan(inner, c, length=3)
            return lax.all_to_all(c, AXIS, 0, 0), None

        return lax.scan(outer, x_8x2, length=5)[0]

    text = compiled(f, (64, 2))
    assert sorted(collectives(text)) == [
        Collective("all-reduce", 64, 8, 15),
        Collective("all-to-all", 64, 8, 5),
    ]
    assert bytes_sent(text) == 15 * 2 * 7 / 8 * 64 + 5 * 7 / 8 * 64


def test_a_loop_of_unknown_length_with_a_collective_is_an_error():
    def f(x):
        return lax.while_loop(lambda c: (c.sum() < 100) & True, lambda c: lax.psum(c, AXIS), x)

    with pytest.raises(ValueError, match="loop of unknown trip count"):
        collectives(compiled(f, (8, 2), num_devices=2))
