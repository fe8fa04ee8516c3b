/** The modules that a generated client imports; Prisma ships no types for them. */
declare module '@prisma/client/runtime/query_compiler_fast_bg.postgresql.mjs'

declare module '@prisma/client/runtime/query_compiler_fast_bg.postgresql.wasm-base64.mjs' {
  export const wasm: string
}

/** Node has it; the types of Node leave it to those of browsers. */
declare namespace WebAssembly {
  class Module {
    constructor(bytes: Uint8Array)
  }
}
