package launch_test

import (
	"slices"
	"testing"

	"github.com/juicefs-csi/driver/services/mountmgr/internal/launch"
)

func TestExpand(t *testing.T) {
	argv := []string{"/bin/p", "auth", "--token=${token}", "--secret-key=${empty}", "--bucket=x${token}", "${token}", "--other=${unset}"}
	got := launch.Expand(argv, []string{"token=a=${b} c", "empty=", "tokens=x"})
	want := []string{"/bin/p", "auth", "--token=a=${b} c", "--secret-key=", "--bucket=x${token}", "${token}", "--other=${unset}"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if argv[2] != "--token=${token}" {
		t.Error("the arguments were changed in place")
	}
}
