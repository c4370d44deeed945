// Grows and shrinks its heap from several worker threads, says so, and sleeps.
const { Worker, isMainThread } = require("worker_threads");

function churn(megabytes) {
  const kept = [];
  for (let i = 0; i < megabytes; i++) {
    kept.push(Buffer.alloc(1 << 20, 1));
    kept.push(new Array(10000).fill({ i }));
  }
  return kept.length;
}

async function main() {
  for (let round = 0; round < 3; round++) {
    const workers = [0, 1, 2].map(() => new Worker(__filename));
    churn(20);
    await Promise.all(workers.map((worker) => new Promise((resolve) => worker.on("exit", resolve))));
  }
  console.log("done");
  setTimeout(() => {}, 60000);
}

if (isMainThread) {
  main();
} else {
  churn(20);
}
