package table_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/juicefs-csi/driver/cli/kubectl-jfs/internal/table"
)

func TestAge(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	for age, want := range map[time.Duration]string{
		-time.Hour:                      "0s",
		90 * time.Second:                "90s",
		7 * time.Minute:                 "7m",
		3*time.Hour + 20*time.Minute:    "3h20m",
		12*24*time.Hour + 3*time.Minute: "12d",
	} {
		if got := table.Age(now, now.Add(-age)); got != want {
			t.Errorf("Age(%s) = %q, want %q", age, got, want)
		}
	}
	if got := table.Age(now, time.Time{}); got != "<unknown>" {
		t.Errorf("Age of an unknown time = %q", got)
	}
}

func TestCellsCannotDriveTheTerminal(t *testing.T) {
	t.Parallel()
	columns := []table.Column[string]{{Name: "A", Cell: func(s string) string { return s }}}
	var out bytes.Buffer
	if err := table.Write(&out, table.Plain, columns, []string{"a\x1b[2Jb\nc", ""}); err != nil {
		t.Fatal(err)
	}
	if want := "A\na [2Jb c\n<none>\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

func TestEmptyListIsAList(t *testing.T) {
	t.Parallel()
	for format, want := range map[table.Format]string{
		table.JSON: "{\n  \"items\": []\n}\n",
		table.YAML: "items: []\n",
	} {
		var out bytes.Buffer
		if err := table.Write[string](&out, format, nil, nil); err != nil {
			t.Fatal(err)
		}
		if out.String() != want {
			t.Errorf("%s: got %q, want %q", format, out.String(), want)
		}
	}
}
