// OUT=FOLDER node --no-warnings wasi.mjs PROGRAM.wasm [ARG...]: a program for WASI, which sees this folder and OUT
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';
const args = process.argv.slice(2), { env } = process;
const wasi = new WASI({ version: 'preview1', args, env, preopens: { '.': '.', [env.OUT]: env.OUT }, returnOnExit: true });
globalThis.kept = wasi; // else it is collected while the program runs, and Node 20 aborts
const program = new WebAssembly.Module(readFileSync(args[0]));
process.exitCode = wasi.start(new WebAssembly.Instance(program, { wasi_snapshot_preview1: wasi.wasiImport }));
