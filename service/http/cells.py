"""Finds the cell of a request where there are several.

An account can move to another cell after this process has read the map. The cell that it left does
not find it, so a request there is refused and has changed nothing; a foreign key refuses one that
has waited for the move. Then the request runs again, in the cell to which the old one has given
the account.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar
from uuid import UUID

from starlette.requests import Request

from service.context import Context
from service.database_errors import DatabaseError, Elsewhere, Rejected
from service.errors import ClientError

T = TypeVar("T")
Asked = list[tuple[UUID, Context]]  # the accounts of a request, and the cells that it asked

NOT_FOUND: Final = (401, 403, 404, 422)  # 422: the owner of a new profile


async def following(request: Request, act: Callable[[], Awaitable[T]]) -> T:
    """The result of `act`, which runs again if an account of the request is in another cell."""
    try:
        return await act()
    except (ClientError, Elsewhere, Rejected) as refusal:
        if isinstance(refusal, ClientError) and refusal.status not in NOT_FOUND:
            raise
        asked: Asked = getattr(request.state, "asked", [])
        if not any([await has_moved(*one) for one in asked]):
            raise
    return await act()


async def has_moved(account_id: UUID, asked: Context) -> bool:
    """Whether an account that the cell `asked` did not find is in another one."""
    return asked.cells is not None and await asked.cells.has_moved(account_id, asked)


async def first_found(
    context: Context, ask: Callable[[Context], Awaitable[T | None]]
) -> tuple[Context, T] | None:
    """The first cell that has something, and what it has; raises DatabaseError.

    A cell that fails is an error only if no other one has it.
    """
    failure: DatabaseError | None = None
    for cell in context.every:
        try:
            if context.cells is not None:
                cell.readiness.refuse_unreachable()
            found = await ask(cell)
        except DatabaseError as error:
            failure = error
            continue
        if found is not None:
            return cell, found
    if failure is not None:
        raise failure
    return None
