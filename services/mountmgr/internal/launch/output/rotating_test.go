package output_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch/output"
)

func TestARotatingLogIsBoundedAndKeepsTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := output.OpenRotating(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if _, err := fmt.Fprintf(log, "line %d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	var all string
	for _, name := range []string{path + ".1", path} {
		text, err := os.ReadFile(name)
		if err != nil || len(text) > 100 {
			t.Errorf("%s has %d bytes, want at most 100: %v", name, len(text), err)
		}
		all += string(text)
	}
	if !strings.HasSuffix(all, "line 998\nline 999\n") || strings.Contains(all, "before") {
		t.Errorf("the log ends with %q", all)
	}
}
