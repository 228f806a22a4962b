"""The command line is frozen: names, arguments and options that users' scripts hold on to."""

from __future__ import annotations

import typer.main

from sweeps.__main__ import app

LAUNCH = {"preset", "overrides", "name", "storage", "address", "tracking_uri", "tracking_optional"}
COMMANDS = {
    "plan": LAUNCH | {"config_path", "simulate", "curves", "workers", "probe", "budget"},
    "run": LAUNCH | {"config_path"},
    "resume": {"name", "overrides", "storage", "address", "tracking_uri", "tracking_optional", "retry_failed"}
    | {"allow_other_code"},
    "status": {"name", "storage", "watch", "as_json", "traceback"},
    "report": {"name", "storage"},
    "confirm": {"name", "top", "seeds", "class_orders", "as_name", "storage", "address", "tracking_uri"}
    | {"tracking_optional"},
    "sync": {"name", "storage", "tracking_uri"},
    "clean": {"name", "storage", "max_gb", "other_code", "dry_run"},
    "data verify": {"dataset", "overrides", "config_path", "workers", "as_json"},
    "data prepare": {"dataset", "overrides", "config_path"},
}


def leaves(group, prefix=""):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def test_commands_and_their_options():
    commands = dict(leaves(typer.main.get_command(app)))
    assert {name: {p.name for p in c.params} - {"help"} for name, c in commands.items()} == COMMANDS
    assert all(command.help for command in commands.values())
