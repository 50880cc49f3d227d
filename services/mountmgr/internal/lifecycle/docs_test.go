package lifecycle

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// document draws and describes the table.
var document = filepath.Join("..", "..", "..", "..", "docs", "mount-states.md")

func readDocument(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestTheDiagramIsTheTable(t *testing.T) {
	_, diagram, found := strings.Cut(readDocument(t), "stateDiagram-v2\n")
	diagram, _, ended := strings.Cut(diagram, "```")
	if !found || !ended {
		t.Fatalf("%s has no state diagram", document)
	}
	arrow := regexp.MustCompile(`^\s*(\S+) --> (\w+|\[\*\])(: .*)?$`)
	drawn := make(map[State][]State)
	for line := range strings.Lines(diagram) {
		line = strings.TrimSuffix(line, "\n")
		match := arrow.FindStringSubmatch(line)
		if match == nil {
			t.Errorf("line %q is no arrow", line)
			continue
		}
		from, to := match[1], match[2]
		switch {
		case from == "[*]" && to != string(Pending) && to != string(Serving): // Serving when it is adopted.
			t.Errorf("a mount begins as %s in the diagram, not as %s", to, Pending)
		case to == "[*]" && from != string(Gone):
			t.Errorf("a mount ends as %s in the diagram, not as %s", from, Gone)
		case from != "[*]" && to != "[*]":
			drawn[State(from)] = append(drawn[State(from)], State(to))
		}
	}
	for _, state := range States() {
		want, got := slices.Sorted(slices.Values(transitions()[state])), slices.Sorted(slices.Values(drawn[state]))
		if !slices.Equal(want, got) {
			t.Errorf("%s leads to %v in the diagram, to %v in the table", state, got, want)
		}
		delete(drawn, state)
	}
	for state := range drawn {
		t.Errorf("the diagram has the unknown state %s", state)
	}
}

func TestEveryStateIsDescribed(t *testing.T) {
	text := readDocument(t)
	for _, state := range States() {
		if count := strings.Count(text, "\n| "+string(state)+" | "); count != 1 {
			t.Errorf("%s is described %d times", state, count)
		}
	}
}

func TestTheShareableStatesAreNamed(t *testing.T) {
	var names []string
	for _, state := range States() {
		if state.Shareable() {
			names = append(names, string(state))
		}
	}
	sentence := "may join a mount in " + strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1] + "."
	if text := strings.Join(strings.Fields(readDocument(t)), " "); !strings.Contains(text, sentence) {
		t.Errorf("the document does not say %q", sentence)
	}
}
