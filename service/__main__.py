"""The entry point of `viewing-time`; Ctrl-C ends it quietly, also during imports."""

import sys


def main() -> None:
    try:
        if sys.argv[1:] == ["healthcheck"]:  # often run, so without the imports of the others
            from service.command.healthcheck import probe

            probe([])
        from service.command.main import main as command

        command(prog_name="viewing-time")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
