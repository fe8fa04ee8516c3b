import { readFile } from 'node:fs/promises'
import type { PrismaPg } from '@prisma/adapter-pg'
import * as runtime from '@prisma/client/runtime/client'
import type { Item, LogEntry } from '../library-contract.ts'

/**
 * A PrismaClient without the files that `prisma generate` writes: `client-config.json` is what they hold besides types, so that the tests need neither the command line of Prisma, which weighs 230 MB, nor the network.
 *
 * To renew it: `prisma generate` with the schema that stands in the file as `inlineSchema` (with `PRISMA_SCHEMA_ENGINE_BINARY=/bin/true` where its engine cannot be downloaded, which generating does not need), then the
 * members of `config` in `internal/class.ts`, as JSON.
 */
const config = JSON.parse(
  await readFile(new URL('./client-config.json', import.meta.url), 'utf8'),
) as runtime.GetPrismaClientConfig

config.compilerWasm = {
  getRuntime: () => import('@prisma/client/runtime/query_compiler_fast_bg.postgresql.mjs'),
  getQueryCompilerWasmModule: async () => {
    const { wasm } = await import(
      '@prisma/client/runtime/query_compiler_fast_bg.postgresql.wasm-base64.mjs'
    )
    return new WebAssembly.Module(Buffer.from(wasm, 'base64'))
  },
  importName: './query_compiler_fast_bg.js',
}

export interface Note {
  readonly id: number
  readonly text: string
  readonly kind: 'plain' | 'fancy'
  readonly itemId: number
}

/** The slice of a model that is in use here. */
interface Model<Row> {
  findMany(args?: object): Promise<Row[]>
  findFirst(args?: object): Promise<Row | null>
  findUnique(args: { where: object; include?: object }): Promise<Row | null>
  count(args?: object): Promise<number>
  aggregate(args: object): Promise<unknown>
  groupBy(args: object): Promise<unknown>
  create(args: { data: object; include?: object }): Promise<Row>
  createMany(args: { data: object[]; skipDuplicates?: boolean }): Promise<{ count: number }>
  createManyAndReturn(args: { data: object[] }): Promise<Row[]>
  update(args: { where: object; data: object }): Promise<Row>
  updateMany(args: { where?: object; data: object }): Promise<{ count: number }>
  upsert(args: { where: object; create: object; update: object }): Promise<Row>
  delete(args: { where: object }): Promise<Row>
  deleteMany(args?: object): Promise<{ count: number }>
}

/** What stands both on a client and in a transaction. */
export interface Models {
  readonly item: Model<Item & { readonly notes?: Note[] }>
  readonly log: Model<LogEntry>
  readonly note: Model<Note>
  readonly tag: Model<{ readonly name: string }>
  $queryRaw<Row>(sql: TemplateStringsArray, ...values: unknown[]): Promise<Row[]>
  $queryRawUnsafe<Row>(sql: string, ...values: unknown[]): Promise<Row[]>
  $executeRaw(sql: TemplateStringsArray, ...values: unknown[]): Promise<number>
}

export interface TransactionOptions {
  readonly isolationLevel?: 'Serializable' | 'RepeatableRead'
  readonly timeout?: number
  readonly maxWait?: number
}

export interface PrismaClient extends Models {
  $connect(): Promise<void>
  $disconnect(): Promise<void>
  $extends(extension: never): unknown
  $transaction<T>(fn: (tx: Models) => Promise<T>, options?: TransactionOptions): Promise<T>
  $transaction(calls: Promise<unknown>[], options?: TransactionOptions): Promise<unknown[]>
}

export const PrismaClient = runtime.getPrismaClient(config) as unknown as new (options: {
  adapter: PrismaPg
}) => PrismaClient

/** The tables of the models besides `item` and `log`, in one schema. */
export const noteTablesSql = (schema: string): string =>
  `create type "${schema}"."Kind" as enum ('plain', 'fancy');
   create table "${schema}"."Note" (id serial primary key, text text not null, kind "${schema}"."Kind" not null default 'plain', "itemId" int not null references "${schema}".item);
   create table "${schema}"."Tag" (name text primary key);
   create table "${schema}"."_ItemToTag" ("A" int not null references "${schema}".item, "B" text not null references "${schema}"."Tag", primary key ("A", "B"))`
