from itertools import pairwise

import pytest

from canaryproxy.stats.histogram import COUNT, index, quantile, round_up_us, upper_edge_us


def test_a_bucket_holds_its_own_upper_edge_and_the_next_microsecond_is_the_next_bucket() -> None:
    for bucket in range(COUNT - 1):
        edge = upper_edge_us(bucket)
        assert index(edge) == bucket
        assert index(edge + 1) == bucket + 1


@pytest.mark.parametrize(("us", "bucket"), [(0, 0), (1, 0), (100, 0), (101, 1), (100_000_000, COUNT - 1), (10**12, COUNT - 1)])
def test_the_ends_take_everything_beyond(us: int, bucket: int) -> None:
    assert index(us) == bucket


def test_edges_cover_a_tenth_of_a_millisecond_to_100_seconds_in_steps_of_2_percent() -> None:
    edges = [upper_edge_us(bucket) for bucket in range(COUNT)]
    assert (edges[0], edges[-1]) == (100, 100_000_000)
    assert COUNT == 699
    assert all(lower < upper <= lower * 1.02 + 1 for lower, upper in pairwise(edges))


def test_rounding_up_gives_an_edge_and_leaves_edges_alone() -> None:
    assert round_up_us(200_000) >= 200_000
    assert round_up_us(round_up_us(200_000)) == round_up_us(200_000)
    assert round_up_us(5e8) == 100_000_000


def test_quantiles_are_upper_edges() -> None:
    counts = {index(1_000): 95, index(50_000): 5}
    assert quantile(counts, 0.95) == upper_edge_us(index(1_000))
    assert quantile(counts, 0.951) == upper_edge_us(index(50_000))
    assert quantile(counts, 0.0) == upper_edge_us(index(1_000))
    assert quantile(counts, 1.0) == upper_edge_us(index(50_000))
    assert quantile({}, 0.5) is None
    assert quantile({3: 0.0}, 0.5) is None
