// Package metricstest compares what the page docs/metrics.md says with what a
// service's registry describes.
package metricstest

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Row is a metric as the page has it.
type Row struct {
	Name, Type string
	Labels     []string
}

// Documented fails the test unless the sections of the page at path list
// exactly the metrics of the registry with their labels, and the types of those
// that have a value now, and unless its rules use metrics that it lists. The
// collectors of the Go runtime and of the process are left out.
func Documented(tb testing.TB, path string, registry *prometheus.Registry, sections ...string) {
	tb.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	page := string(text)
	described := describedBy(registry)
	documented := make(map[string]Row)
	for _, section := range sections {
		rows := rowsOf(page, section)
		if len(rows) == 0 {
			tb.Errorf("%s has no table below ## %s", path, section)
		}
		for _, row := range rows {
			documented[row.Name] = row
		}
	}
	for name, labels := range described {
		switch row, found := documented[name]; {
		case !found:
			tb.Errorf("%s does not list %s", path, name)
		case !slices.Equal(row.Labels, labels):
			tb.Errorf("%s lists %s with the labels %q, it has %q", path, name, row.Labels, labels)
		}
	}
	for name := range documented {
		if _, found := described[name]; !found {
			tb.Errorf("%s lists %s, which is not there", path, name)
		}
	}
	compareTypes(tb, registry, documented)
	checkRules(tb, page)
}

// foreign are the collectors that others document.
func foreign(name string) bool {
	return strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_")
}

// describedBy returns the sorted labels by metric. A description tells them by
// its text only.
func describedBy(registry *prometheus.Registry) map[string][]string {
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		registry.Describe(descriptions)
	}()
	form := regexp.MustCompile(`^Desc\{fqName: "([^"]*)".* constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)
	described := make(map[string][]string)
	for description := range descriptions {
		found := form.FindStringSubmatch(description.String())
		if found == nil || foreign(found[1]) {
			continue
		}
		labels := split(found[3])
		for _, pair := range split(found[2]) {
			name, _, _ := strings.Cut(pair, "=")
			labels = append(labels, name)
		}
		slices.Sort(labels)
		described[found[1]] = labels
	}
	return described
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// rowsOf returns the rows of the tables below a heading of the second level.
func rowsOf(page, section string) []Row {
	_, below, _ := strings.Cut(page, "\n## "+section+"\n")
	below, _, _ = strings.Cut(below, "\n## ")
	var rows []Row
	for line := range strings.Lines(below) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if len(cells) != 5 || !strings.HasPrefix(line, "| `") {
			continue
		}
		row := Row{Name: strings.Trim(cells[0], " `"), Type: strings.TrimSpace(cells[1])}
		for label := range strings.SplitSeq(cells[2], ",") {
			if label = strings.Trim(label, " `"); label != "" {
				row.Labels = append(row.Labels, label)
			}
		}
		slices.Sort(row.Labels)
		rows = append(rows, row)
	}
	return rows
}

func compareTypes(tb testing.TB, registry *prometheus.Registry, documented map[string]Row) {
	tb.Helper()
	families, err := registry.Gather()
	if err != nil {
		tb.Error(err)
	}
	for _, family := range families {
		row, found := documented[family.GetName()]
		if kind := strings.ToLower(family.GetType().String()); found && row.Type != kind {
			tb.Errorf("%s is documented as %s, it is a %s", row.Name, row.Type, kind)
		}
	}
}

// checkRules fails for a metric that rules use and no table has.
func checkRules(tb testing.TB, page string) {
	tb.Helper()
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1) {
		for _, name := range regexp.MustCompile(`\b(juicefs|grpc|controller)_[a-z_]+`).FindAllString(block[1], -1) {
			plain := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !strings.Contains(page, "| `"+name+"` |") && !strings.Contains(page, "| `"+plain+"` |") {
				tb.Errorf("a rule uses %s, which no table has", name)
			}
		}
	}
}
