"""Two ways to charge a customer. Both pass every ordinary test; one of them charges some customers twice."""

from typing import Any

from foliot import Context, Foliot, Retry

app = Foliot("payments")


class Bank:
    """The client of the payment provider. Tests put a simulated service in its place."""

    async def charge(self, **request: Any) -> str:
        raise NotImplementedError("no bank in this example: `foliot.simulations` has one")


bank: Any = Bank()


@app.task(max_attempts=8, timeout="30s", retry=Retry(base="1s", cap="10s"))
async def charge_naive(ctx: Context, order: int, cents: int) -> str:
    """Names each attempt, so the bank takes the second attempt for another payment."""
    receipt: str = await bank.charge(order=order, cents=cents, idempotency_key=ctx.attempt_token)
    return receipt


@app.task(max_attempts=8, timeout="30s", retry=Retry(base="1s", cap="10s"))
async def charge(ctx: Context, order: int, cents: int) -> str:
    """Names the payment: whichever attempt asks, the bank knows it again."""
    receipt: str = await bank.charge(order=order, cents=cents, idempotency_key=ctx.task_id)
    return receipt
