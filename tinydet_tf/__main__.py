"""`python -m tinydet_tf`: `tinydet` without its installed entry point."""

from tinydet_tf.cli.main import module

if __name__ == "__main__":
    module()
