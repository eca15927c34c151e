"""The entry point of `viewing-time`; Ctrl-C ends it quietly, also during imports."""


def main() -> None:
    try:
        from service.command.main import main as command

        command(prog_name="viewing-time")
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
