// Checks a document with AsyncAPI's own parser: prints the findings, and exits with 1 if one is an error or a warning.
import { readFile } from "node:fs/promises";
import { DiagnosticSeverity, Parser } from "@asyncapi/parser";

const [file] = process.argv.slice(2);
const { diagnostics, document } = await new Parser().parse(await readFile(file, "utf8"));
const found = diagnostics.filter(({ severity }) => severity <= 1);
for (const { code, message, path, range } of found) {
  console.log(`${file}:${range.start.line + 1}: ${message} (${code}, ${path.join(".")})`);
}
if (document && !found.length) {
  console.log(`${file} is valid: ${document.allChannels().length} channels, ${document.allOperations().length} operations`);
}
process.exitCode = found.length ? 1 : 0;
