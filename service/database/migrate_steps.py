"""The migrations of this version for yoyo, made of their texts: the wheel has no files of them."""

from functools import cache
from itertools import zip_longest
from typing import Any

from yoyo.migrations import (
    Migration,
    MigrationList,
    StepCollector,
    parse_metadata_from_sql_comments,
    sqlparse,
)

from service.database.statement import ROLLBACK, migration_texts


@cache
def all_migrations() -> Any:
    """The migrations in order, as yoyo would read them from files."""
    found: dict[str, Any] = {}
    for name in sorted(name for name in migration_texts() if not name.endswith(ROLLBACK)):
        directives, statements = _statements(name)
        _, undoing = _statements(name + ROLLBACK)
        migration = Migration(name, f"{name}.sql", source_dir="migrations")
        collector = StepCollector(migration)
        for apply, undo in zip_longest(statements, reversed(undoing)):
            collector.add_step(apply, undo)
        migration.use_transactions = directives.get("transactional") != "false"
        migration._depends = {found[each] for each in directives.get("depends", "").split()}
        migration.steps = collector.create_steps(migration.use_transactions)
        found[name] = migration
    return MigrationList(found.values())


def _statements(name: str) -> tuple[dict[str, str], list[str]]:
    """The directives and the statements of a step."""
    first, *others = sqlparse.split(migration_texts().get(name, "")) or [""]
    directives, _, first = parse_metadata_from_sql_comments(first)
    return directives, [text for text in (first, *others) if text.strip()]
