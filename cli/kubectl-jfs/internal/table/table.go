// Package table writes rows for people and for programs.
package table

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"sigs.k8s.io/yaml"
)

// Format is the value of --output.
type Format string

// The formats.
const (
	Plain Format = ""
	Wide  Format = "wide"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// ParseFormat accepts "table" as the plain one.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Plain, "table":
		return Plain, nil
	case Wide, JSON, YAML:
		return f, nil
	default:
		return "", fmt.Errorf("unknown output format %q: use table, wide, json or yaml", s)
	}
}

// Column is one column of a table of T.
type Column[T any] struct {
	Name string
	// Wide columns are left out of the plain table.
	Wide bool
	Cell func(T) string
}

// Write writes the rows. JSON and YAML are an object with the list "items",
// whose fields are those of T.
func Write[T any](w io.Writer, format Format, columns []Column[T], rows []T) error {
	switch format {
	case JSON:
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(document[T](rows))
	case YAML:
		text, err := yaml.Marshal(document[T](rows))
		if err != nil {
			return fmt.Errorf("encode yaml: %w", err)
		}
		_, err = w.Write(text)
		return err
	case Plain, Wide:
		return writeTable(w, format == Wide, columns, rows)
	default:
		return fmt.Errorf("unknown output format %q", format)
	}
}

func document[T any](rows []T) any {
	if rows == nil {
		rows = []T{}
	}
	return map[string]any{"items": rows}
}

func writeTable[T any](w io.Writer, wide bool, columns []Column[T], rows []T) error {
	const padding = 3
	tabs := tabwriter.NewWriter(w, 0, 0, padding, ' ', 0)
	line := func(cell func(Column[T]) string) {
		var cells []string
		for _, c := range columns {
			if wide || !c.Wide {
				cells = append(cells, cell(c))
			}
		}
		// The writer keeps the first error for Flush.
		_, _ = fmt.Fprintln(tabs, strings.Join(cells, "\t"))
	}
	line(func(c Column[T]) string { return c.Name })
	for _, row := range rows {
		line(func(c Column[T]) string {
			if text := oneLine(c.Cell(row)); text != "" {
				return text
			}
			return "<none>"
		})
	}
	return tabs.Flush()
}

// oneLine keeps what comes from a cluster from breaking the table or driving
// the terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// Age is the time since then in at most two units: "45s", "7m", "3h20m", "12d".
func Age(now, then time.Time) string {
	if then.IsZero() {
		return "<unknown>"
	}
	d := max(now.Sub(then), 0)
	const day = 24 * time.Hour
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d/time.Second)) + "s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + "m"
	case d < day:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return strconv.Itoa(int(d/day)) + "d"
	}
}
