// Who goes to the server next. A page of 200 pictures sends a few at a time: a browser has six connections to a server,
// of which uploads and followed jobs keep one each.

export class Queue {
  /** `slots` in all, of which no more than `kinds[kind]` for tasks of a kind. A task has `kind`, `rank` and `run()`. */
  constructor(slots, kinds = {}) {
    Object.assign(this, { slots, kinds, waiting: [], running: new Set() });
  }

  add(task) {
    this.waiting.push(task);
    queueMicrotask(() => this.advance()); // what is added together is ranked together
  }

  drop(task) {
    this.waiting = this.waiting.filter((other) => other !== task);
  }

  advance() {
    while (this.running.size < this.slots) {
      const task = this.next();
      if (!task) return;
      this.drop(task);
      this.running.add(task);
      task.run().finally(() => {
        this.running.delete(task);
        this.advance();
      });
    }
  }

  /** The task of the lowest rank, the first of those; ranks change while tasks wait. */
  next() {
    const busy = (kind) => [...this.running].filter((task) => task.kind === kind).length;
    const free = this.waiting.filter(({ kind }) => busy(kind) < (this.kinds[kind] ?? this.slots));
    return free.reduce((best, task) => (best && best.rank <= task.rank ? best : task), null);
  }
}
