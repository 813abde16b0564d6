/**
 * The names of WebAssembly's types for programs without the DOM library, which declares them;
 * @types/node 20 does not. They are empty, so that they merge with whatever declares them in full.
 */
declare global {
  namespace WebAssembly {
    interface Memory {}
    interface Module {}
  }
}
