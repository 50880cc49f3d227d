// Command schema writes values.schema.json of every chart:
//
//	go run ./hack/schema --charts charts
//
// The charts have most keys in common, and JSON Schema files of charts cannot
// refer to each other.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("schema", flag.ContinueOnError)
	charts := flags.String("charts", "charts", "the directory of the charts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	schemas := chartSchemas()
	for _, name := range slices.Sorted(maps.Keys(schemas)) {
		text, err := encode(schemas[name])
		if err != nil {
			return fmt.Errorf("encode the schema of %s: %w", name, err)
		}
		path := filepath.Join(*charts, name, "values.schema.json")
		if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // a source file, read by everybody
			return fmt.Errorf("write the schema of %s: %w", name, err)
		}
	}
	return nil
}

// encode gives the text of a schema file; equal schemas give equal text.
func encode(s schema) ([]byte, error) {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}
