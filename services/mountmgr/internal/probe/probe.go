// Package probe asks file systems questions that may never be answered. Each
// question is put by a short-lived process of its own: the mount manager holds
// FUSE descriptors, and a process that waits for a mount whose descriptor it
// holds can never be killed.
package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/containerd/errdefs"
)

// outstanding bounds the probe processes that wait at one time, so that dead
// mounts cannot fill the node with them.
const outstanding = 64

// Prober runs probe processes. It is safe for concurrent use.
type Prober struct {
	// executable is a program that runs Main with the arguments after "probe".
	executable string
	slots      chan struct{}
	// Observe is told how each question ended; nil for nobody. Set it before
	// the first question.
	Observe func(Result)

	gates gates
}

// Result is how a question ended.
type Result string

// The results.
const (
	// Answered is an answer in time.
	Answered Result = "ok"
	// TimedOut is no answer in time.
	TimedOut Result = "timeout"
	// Failed is an error of the file system, or of the probe itself.
	Failed Result = "error"
)

// New returns a prober that runs executable with "probe" as first argument.
func New(executable string) *Prober {
	return &Prober{executable: executable, slots: make(chan struct{}, outstanding)}
}

// Client is what a JuiceFS client tells of itself in its .config file.
type Client struct {
	Version   string `json:"version"`
	SessionID uint64 `json:"sessionID"`
	UUID      string `json:"uuid"`
	// PID and PPID are those of the serving process and its supervisor, as they
	// see them; CommPath and StatePath are the supervisor's socket and where the
	// client writes its state, also as they see them.
	PID       int    `json:"pid,omitempty"`
	PPID      int    `json:"ppid,omitempty"`
	CommPath  string `json:"commPath,omitempty"`
	StatePath string `json:"statePath,omitempty"`
}

// Usage is the result of statfs.
type Usage struct {
	BlockSize  int64  `json:"blockSize"`
	Blocks     uint64 `json:"blocks"`
	FreeBlocks uint64 `json:"freeBlocks"`
	Inodes     uint64 `json:"inodes"`
	FreeInodes uint64 `json:"freeInodes"`
}

// Ready waits until the file system at path answers and is a JuiceFS root, and
// returns what its client tells. context.DeadlineExceeded when ctx ends.
func (p *Prober) Ready(ctx context.Context, path string) (Client, error) {
	var client Client
	return client, p.run(ctx, &client, ask("ready", path))
}

// Usage returns statfs of the file system at path; context.DeadlineExceeded
// when ctx ends. mount names the mount that path shows: it has one process at a
// time, whose answer all who ask for the same path share. While a process that
// was killed does not end, because the kernel waits for the client, the answer
// is context.DeadlineExceeded at once.
func (p *Prober) Usage(ctx context.Context, mount, path string) (Usage, error) {
	return p.gates.usage(ctx, p, mount, path)
}

// Wake starts a process that sends requests into the file system at path, one
// every few milliseconds, until the returned function ends it. They wake
// readers of the old client that wait inside read(2) when it is told to stop.
func (p *Prober) Wake(ctx context.Context, path string) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, p.executable, "probe", "wake", path)
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, fmt.Errorf("start wake process: %w", err)
	}
	go func() { _ = cmd.Wait() }() // It ends by being killed.
	return cancel, nil
}

// question is what a probe process is started for.
type question struct {
	name string
	// path is that of the file system which may not answer.
	path string
	// args are the arguments of the process, and files its descriptors from 3 on.
	args  []string
	files []*os.File
}

// ask is a question that needs no more than the path.
func ask(name, path string) question { return question{name: name, path: path, args: []string{path}} }

// run starts a process for a question and decodes the answer into result.
func (p *Prober) run(ctx context.Context, result any, q question) error {
	asked, err := p.start(ctx, q)
	if err != nil {
		return err
	}
	err = asked.answer(ctx, result)
	p.observe(err)
	return err
}

func (p *Prober) observe(err error) {
	switch {
	case p.Observe == nil:
	case err == nil:
		p.Observe(Answered)
	case errors.Is(err, context.DeadlineExceeded):
		p.Observe(TimedOut)
	default:
		p.Observe(Failed)
	}
}

// process is a probe process that was started.
type process struct {
	path           string
	stdout, stderr bytes.Buffer
	// ended is closed when the process is gone; err and the buffers are valid
	// from then on.
	ended chan struct{}
	err   error
}

// start starts a probe process, which is killed when ctx ends.
func (p *Prober) start(ctx context.Context, q question) (*process, error) {
	select {
	case p.slots <- struct{}{}:
	default:
		return nil, fmt.Errorf("probe %s: %d probes wait for file systems that do not answer: %w", q.path, outstanding, errdefs.ErrUnavailable)
	}
	asked := &process{path: q.path, ended: make(chan struct{})}
	cmd := exec.CommandContext(ctx, p.executable, append([]string{"probe", q.name}, q.args...)...)
	cmd.ExtraFiles = q.files
	cmd.Stdout, cmd.Stderr = &asked.stdout, &asked.stderr
	if err := cmd.Start(); err != nil {
		<-p.slots
		return nil, fmt.Errorf("start probe of %s: %w", q.path, err)
	}
	go func() {
		asked.err = cmd.Wait()
		<-p.slots
		close(asked.ended)
	}()
	return asked, nil
}

// answer waits for the process until ctx ends.
func (a *process) answer(ctx context.Context, result any) error {
	select {
	case <-ctx.Done(): // It is killed, but may wait in the kernel and not end yet: nobody waits for it.
	case <-a.ended:
		if ctx.Err() == nil {
			return decode(a.err, a.path, a.stdout.Bytes(), a.stderr.String(), result)
		}
	}
	return silent(a.path)
}

func silent(path string) error {
	return fmt.Errorf("file system at %s does not answer: %w", path, context.DeadlineExceeded)
}

func decode(err error, path string, stdout []byte, stderr string, result any) error {
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		return fmt.Errorf("probe %s: %s: %w", path, strings.TrimSpace(stderr), errdefs.ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("probe %s: %w", path, err)
	}
	if err := json.Unmarshal(stdout, result); err != nil {
		return fmt.Errorf("decode probe of %s: %w", path, err)
	}
	return nil
}
