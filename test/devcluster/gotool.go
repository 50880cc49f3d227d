package devcluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/mod/semver"
)

// goCommand prepares a go command that sees neither the workspace nor the
// caller's flags for modules, and makes static programs.
func goCommand(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-buildvcs=false", "CGO_ENABLED=0")
	return cmd
}

func goOutput(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := goCommand(ctx, dir, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.Bytes(), nil
}

// goBuild builds a program and says every 10 seconds how far it is. The
// binary appears under its name only when it is complete.
func goBuild(ctx context.Context, dir, binary, linkFlags string, say *reporter, packages ...string) error {
	tmp := binary + ".building"
	args := append([]string{"build", "-v", "-trimpath", "-ldflags=" + linkFlags, "-o", tmp}, packages...)
	cmd := goCommand(ctx, dir, args...)
	pipe, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	watch := &buildWatch{}
	done := make(chan struct{})
	go func() { watch.read(pipe); close(done) }()
	stop := watch.report(say)
	err := cmd.Run()
	_ = writer.Close()
	<-done
	stop()
	if ctx.Err() != nil {
		return fmt.Errorf("go build in %s: %w", dir, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("go build in %s: %w\n%s", dir, err, watch.tail())
	}
	return os.Rename(tmp, binary)
}

// buildWatch counts the packages that `go build -v` names as it compiles them
// and keeps the last lines for an error.
type buildWatch struct {
	mu    sync.Mutex
	count int
	lines []string
}

const keptLines = 30

func (w *buildWatch) read(r io.Reader) {
	scanner := bufio.NewScanner(r)
	for scanner.Scan() {
		w.mu.Lock()
		w.count++
		w.lines = append(w.lines, scanner.Text())
		if len(w.lines) > keptLines {
			w.lines = w.lines[1:]
		}
		w.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, r) // a line too long must not block the build
}

func (w *buildWatch) tail() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.lines, "\n")
}

func (w *buildWatch) report(say *reporter) (stop func()) {
	ticker, done := time.NewTicker(10*time.Second), make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-ticker.C:
				w.mu.Lock()
				count, last := w.count, ""
				if count > 0 {
					last = w.lines[len(w.lines)-1]
				}
				w.mu.Unlock()
				say.printf("  %d packages compiled, last %s", count, last)
			}
		}
	}()
	return func() { ticker.Stop(); close(done) }
}

// lastForContainerd1 is the last minor release of Kubernetes whose kubelet
// works with containerd 1.x.
const lastForContainerd1 = "v1.35"

// checkContainerd compares the installed containerd with the Kubernetes
// version.
func checkContainerd(ctx context.Context, kubernetes string) error {
	path, err := lookTool("containerd")
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return fmt.Errorf("ask containerd for its version: %w", err)
	}
	return containerdFits(string(out), kubernetes)
}

// containerdFits reads the third word of `containerd --version`, which has no
// leading v in distributions.
func containerdFits(output, kubernetes string) error {
	fields := strings.Fields(output)
	if len(fields) < 3 {
		return fmt.Errorf("containerd --version answered %q: %w", output, errdefs.ErrFailedPrecondition)
	}
	version := strings.TrimPrefix(fields[2], "v")
	if strings.HasPrefix(version, "1.") && semver.Compare(semver.MajorMinor(kubernetes), lastForContainerd1) > 0 {
		return fmt.Errorf("containerd %s is too old for Kubernetes %s; the last that works with it is %s: %w",
			version, kubernetes, lastForContainerd1, errdefs.ErrFailedPrecondition)
	}
	return nil
}
