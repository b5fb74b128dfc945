"""Whoever follows a value hears of its last state, and never waits for one that has been."""

from __future__ import annotations

import asyncio

from ken.serving.latest import Latest


def test_a_follower_gets_the_value_as_it_is_then_the_newest_then_ends():
    async def work():
        latest = Latest(0)
        seen: list[int] = []

        async def follow():
            async for value in latest.follow(lambda v: v == 9):
                seen.append(value)

        follower = asyncio.create_task(follow())
        await asyncio.sleep(0)
        latest.value = 1
        latest.value = 2  # before anybody could look: the one before is missed
        while 2 not in seen:  # noqa: ASYNC110 (the loop turns until the follower has had its turn)
            await asyncio.sleep(0)
        latest.value = 9
        await follower
        assert seen == [0, 2, 9]
        assert [value async for value in latest.follow(lambda v: v == 9)] == [9]

    asyncio.run(work())


def test_a_change_while_the_follower_is_busy_is_not_lost():
    async def work():
        latest = Latest("begun")
        seen = []
        async for value in latest.follow(lambda v: v == "ended"):
            seen.append(value)
            if value == "begun":
                latest.value = "ended"
        assert seen == ["begun", "ended"]

    asyncio.run(work())
