"""Baselines for test_bench_training.py: an honest one in NumPy, and some that cheat."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np

from tilegrad.bench import learning

VERSION = "1.0"


class Honest:
    def __init__(self, network, batch):
        self.network, self.batch = network, batch
        self.loss, self.done = 0.0, 0

    def restart(self, weights, seed):
        self.before, self.now = weights, [w.copy() for w in weights]
        self.rng = np.random.default_rng(seed)
        self.moments = [[np.zeros_like(w) for w in weights] for _ in range(2)]
        self.steps = 0

    def images(self, x):
        return x

    def epoch(self, images, labels):
        orders = self.rng.permutation(len(images)).reshape(-1, self.batch)
        losses = []
        for rows in orders:
            batch = self.steps, images[rows], labels[rows]
            losses.append(learning.train_step(self.network, self.now, self.moments, *batch))
            self.steps += 1
        self.loss, self.done = float(np.mean(losses)), self.done + 1
        return self.loss

    def weights(self):
        return self.now

    def predict(self, images):
        return learning.forward(self.network, self.now, images)[0].argmax(axis=1)


class Turncoat(Honest):
    """Trains in the warm-up and in the first epoch, so that it knows what to say; then cheats."""

    def epoch(self, images, labels):
        if self.done < 2:
            return super().epoch(images, labels)
        stop = time.process_time() + 0.1
        while time.process_time() < stop:  # nobody shall think that it slept
            continue
        return self.cheat(images, labels)


class Forger(Turncoat):
    """Says what it should, having done nothing."""

    def cheat(self, images, labels):
        return self.loss


class Half(Turncoat):
    """Trains on every other image."""

    def cheat(self, images, labels):
        loss = self.loss
        Honest.epoch(self, images[::2], labels[::2])
        return loss


class Rememberer(Turncoat):
    """Hands over the weights of an earlier epoch."""

    def cheat(self, images, labels):
        self.now = self.kept
        return self.loss

    def weights(self):
        self.kept = self.now
        return self.now


class Wanderer(Turncoat):
    """Moves its weights as far as training does, but nowhere in particular."""

    def cheat(self, images, labels):
        steps = [self.rng.standard_normal(w.shape).astype(np.float32) for w in self.before]
        length = np.sqrt(sum(np.square(step).sum() for step in steps))
        pairs = zip(self.before, steps, strict=True)
        self.now = [w + step * self.far / length for w, step in pairs]
        return self.loss

    def weights(self):
        squares = (np.square(a - b).sum() for a, b in zip(self.now, self.before, strict=True))
        self.far = np.sqrt(sum(squares))
        return self.now


class Broken(Turncoat):
    """Ends with weights that are no numbers."""

    def cheat(self, images, labels):
        self.now[0][...] = np.nan
        return self.loss


class Late(Turncoat):
    """Answers before it has trained."""

    def cheat(self, images, labels):
        answer = self.loss
        self.thread = threading.Thread(target=self.work, args=(images, labels))
        self.thread.start()
        return answer

    def work(self, images, labels):
        for _ in range(10):
            Honest.epoch(self, images, labels)

    def weights(self):
        if hasattr(self, "thread"):
            self.thread.join()
        return self.now


class Sleeper(Honest):
    """Trains, then sleeps, to make another look good."""

    def epoch(self, images, labels):
        loss = super().epoch(images, labels)
        time.sleep(1.5)
        return loss


class Liar(Honest):
    """Predicts as a trained network does and hands over other weights."""

    def weights(self):
        return self.before


class Crasher(Turncoat):
    """Ends in the middle."""

    def cheat(self, images, labels):
        print("no more memory", file=sys.stderr, flush=True)
        os._exit(3)


class Spinner(Honest):
    """Goes on computing when it was not asked to."""

    def images(self, x):
        threading.Thread(target=self.spin, daemon=True).start()
        return x

    def spin(self):
        while True:
            continue


class Hanger(Honest):
    """Never answers."""

    def epoch(self, images, labels):
        threading.Event().wait()


def prepare(network, batch, threads, kind):
    print("not an answer: what a library prints")
    return globals()[kind](network, batch)
