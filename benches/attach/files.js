// Operations on files, one after another, which libuv gives to its ring (UV_USE_IO_URING=1).
const fs = require("fs");

const COUNT = 500;
const name = `file-of-node-${process.pid}`;

async function main() {
  const file = await fs.promises.open(name, "w+");
  for (let i = 0; i < COUNT; i++) {
    await file.write("some text", 0);
    await file.read(Buffer.alloc(9), 0, 9, 0);
    await fs.promises.stat(name);
  }
  await file.close();
  await fs.promises.unlink(name);
  console.log(`own writev completed ${COUNT}\nown readv completed ${COUNT}`);
  console.log(`own statx completed ${COUNT}`);
}

main();
