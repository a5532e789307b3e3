"""What `tilegrad bench --suite gpu` does not measure; run by scripts/gpu_check (docs/gpu.md).

    PYTHONPATH=benchmarks python -m gpu PART --device cuda --seconds 120 --out results.json

Parts: ceilings, training, checks. With --device sim all of it runs in the simulator on
tiny sizes, so that the code is known to work before a GPU runs it; times are then left out.
"""
