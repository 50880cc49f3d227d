package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
	"time"
)

// Result is one figure.
type Result struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// N is from how many measurements the figure comes.
	N int `json:"n"`
}

// Report is what a run of the benchmarks has found.
type Report struct {
	Date     string   `json:"date"`
	Machine  Machine  `json:"machine"`
	Versions Versions `json:"versions"`
	Results  []Result `json:"results"`
}

func (r Report) write(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode results: %w", err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write results: %w", err)
	}
	return nil
}

func printTable(out io.Writer, results []Result) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "name\tvalue\tunit\tn")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%g\t%s\t%d\n", r.Name, r.Value, r.Unit, r.N)
	}
	_ = table.Flush() // Nothing can be done about a terminal that is gone.
}

// add records a figure, with three decimals at most.
func (b *bench) add(name string, value float64, unit string, n int) {
	b.results = append(b.results, Result{Name: name, Value: math.Round(value*1000) / 1000, Unit: unit, N: n})
}

// addDurations records percentiles in milliseconds.
func (b *bench) addDurations(name string, durations []time.Duration, percentiles ...int) {
	for _, p := range percentiles {
		suffix := fmt.Sprintf(".p%d", p)
		if p == 100 {
			suffix = ".max"
		}
		b.add(name+suffix, milliseconds(percentile(durations, p)), "ms", len(durations))
	}
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// percentile is by nearest rank: a value that was measured. 0 of nothing.
func percentile[T int | int64 | float64 | time.Duration](values []T, p int) T {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(float64(p) / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}
