"""Bring MLflow's tables to the version that the server expects, one server at a time.

Two servers that meet an empty database both create its tables, and one of them fails; an image with
a newer MLflow does not start on an older schema. PostgreSQL's advisory lock goes with the
connection, so a migration that is killed leaves none behind.
"""

from __future__ import annotations

import os
import subprocess

import psycopg2

LOCK = 0x66706E6173  # any number, the same for all servers: "fpnas"


def main() -> None:
    """Migrates the database that libpq's PG* variables name."""
    connection = psycopg2.connect("")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        command = ["mlflow", "db", "upgrade", os.environ["MLFLOW_BACKEND_STORE_URI"]]
        subprocess.run(command, check=True)  # noqa: S603
    finally:
        connection.close()


if __name__ == "__main__":
    main()
