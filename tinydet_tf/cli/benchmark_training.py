"""Time training: images a second, a whole step against the bare trunk, and the input pipeline; and its memory."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

from tinydet_lite.errors import UserError
from tinydet_lite.lab.memory import peak_bytes
from tinydet_tf.cli.options import add_recipe, check_least, load_recipe, write_json
from tinydet_tf.config import VARIANTS, Config


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="S", help=f"one of {', '.join(VARIANTS)}")
    add_recipe(parser, "train.precision=mixed_bfloat16")
    parser.add_argument(
        "--boxes",
        type=int,
        metavar="N",
        help="scenes of N small boxes each at random places, in noise, instead of --data",
    )
    parser.add_argument("--batch", type=int, metavar="N", help="images a step (default: train.batch_size, 16)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="that are timed (default: %(default)s)")
    parser.add_argument("--parts", action="store_true", help="also what each part of a step costs (takes a while)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="count CPU seconds, on a machine that does other work too"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers")
    return parser.parse_args()


def main() -> None:
    args = parse()
    check_least(args, boxes=0)
    if args.boxes is not None and args.data is not None:
        raise UserError("--boxes and --data came; give one of them")
    if args.batch is not None:
        args.assignments.append(f"train.batch_size={args.batch}")
    config = load_recipe(args, "data.cache=false", variant=args.variant)
    if args.boxes is None:
        _measure(args, config)
        return

    from tinydet_tf.analysis.dense_scenes import write_scenes

    with tempfile.TemporaryDirectory() as folder:
        write_scenes(Path(folder), images=2 * config.train.batch_size, boxes=args.boxes, size=config.model.input_size)
        train = Path(folder) / "train"
        scenes = dataclasses.replace(
            config.data, root=None, train_json=str(train / "instances.json"), train_images=str(train / "images")
        )
        _measure(args, dataclasses.replace(config, data=scenes))


def _measure(args: argparse.Namespace, config: Config) -> None:
    import tf_keras as keras

    from tinydet_tf.analysis.throughput import measure_training
    from tinydet_tf.data.pipeline import build_pipeline
    from tinydet_tf.data.splits import load_split, preparation
    from tinydet_tf.model.detector import TinyDet
    from tinydet_tf.training.run.precision import check_precision
    from tinydet_tf.training.run.schedule import WarmupCosine
    from tinydet_tf.training.run.train import add_in_order, make_optimizer
    from tinydet_tf.training.step.trainer import Trainer

    batch = config.train.batch_size
    check_precision(config.train.precision)
    keras.utils.set_random_seed(config.train.seed)
    add_in_order()  # as training does
    data = load_split(config.data, "train")
    batches = build_pipeline(
        data,
        input_size=config.model.input_size,
        batch_size=batch,
        training=True,
        **preparation(config.data),
    )
    trainer = Trainer(TinyDet(config.model, data.num_classes, precision=config.train.precision), config.train)
    trainer.compile(optimizer=make_optimizer(config.train, WarmupCosine(1e-3, 1e-5, 1000, 0, 0.0)))
    result = measure_training(
        trainer,
        batches,
        batch_size=batch,
        steps=args.steps,
        parts=args.parts,
        clock=time.process_time if args.cpu_time else time.perf_counter,
        progress=True,
    )
    print(f"TinyDet-{config.variant}, batch {batch}: {result.images_per_second:.1f} images a second")
    print(f"  whole step   {result.step * 1e3:8.0f} ms  ({result.step / result.trunk:.2f} x the trunk)")
    for name, seconds in result.parts.items():
        print(f"    {name:12} {seconds * 1e3:6.0f} ms  ({100 * seconds / result.step:.0f}%)")
    print(f"  trunk alone  {result.trunk * 1e3:8.0f} ms  (forward and backward)")
    print(f"  next batch   {result.input * 1e3:8.0f} ms  ({batch / result.input:.0f} images a second)")
    peak = peak_bytes()
    if peak is not None:
        print(f"  peak memory  {peak / 1e9:8.2f} GB (the whole process)")
    content = dataclasses.asdict(result) | {"images_per_second": result.images_per_second, "peak_memory_bytes": peak}
    write_json(args.json, content)
