export type { ProblemDocument, TenancyMode } from '@partywall/core'
export {
  type TenancyErrorHandler,
  type TenancyErrorHandlerOptions,
  tenancyErrorHandler,
} from './tenancy-error-handler.ts'
export { type TenancyPluginOptions, tenancyPlugin } from './tenancy-plugin.ts'
