"""The send table, by the example of its docstring."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from ist_jax.core.placement import AXIS, subnet_mesh
from ist_jax.exchange.transport import LocalTransport, MeshTransport, SendTable

POSITION_SxM = jnp.array([[3, 0], [1, 2]])


def test_the_send_table_of_two_owners_and_two_subnetworks_is_the_documented_one():
    transport = MeshTransport(subnet_mesh(2), 2)
    table_of = lambda position_SxM: transport.send_table(position_SxM, places=2, block_units=1)
    specs = SendTable(PartitionSpec(AXIS), PartitionSpec(), PartitionSpec())
    table = jax.jit(transport.shard_mapped(table_of, PartitionSpec(), specs))(POSITION_SxM)
    rows_RxSxL = table.rows_SxL.reshape(2, 2, 1)
    assert rows_RxSxL.tolist() == [[[0], [1]], [[1], [0]]]
    assert table.slot_SxHK.tolist() == [[1, 0], [0, 1]]
    assert table.received_SxM.tolist() == [[1, 0], [0, 1]]


def test_units_arrive_in_their_slots_and_return_to_their_rows():
    unit_N = jnp.array([10.0, 11.0, 12.0, 13.0])

    def there_and_back(transport, unit_N):
        table = transport.send_table(POSITION_SxM, places=2, block_units=1)
        rows_S = jnp.take(unit_N, table.rows_SxL)
        (received,) = transport.all_to_all([transport.pack(rows_S)])
        subnets_S = transport.unpack(received, 0, table)
        (back,) = transport.all_to_all([transport.pack_return(subnets_S, 0, table)])
        return subnets_S, (transport.unpack_return(back) == rows_S).all()[None]

    for transport in (LocalTransport(), MeshTransport(subnet_mesh(2), 2)):
        run = transport.shard_mapped(
            lambda unit_N, transport=transport: there_and_back(transport, unit_N),
            PartitionSpec(AXIS),
            PartitionSpec(AXIS),
        )
        subnets_S, returned = jax.jit(run)(unit_N)
        np.testing.assert_array_equal(subnets_S, [[13.0, 10.0], [11.0, 12.0]])
        assert returned.all()
