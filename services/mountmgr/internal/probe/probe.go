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
}

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
	return client, p.run(ctx, &client, "ready", path)
}

// Usage returns statfs of the file system at path; context.DeadlineExceeded
// when ctx ends.
func (p *Prober) Usage(ctx context.Context, path string) (Usage, error) {
	var usage Usage
	return usage, p.run(ctx, &usage, "usage", path)
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

func (p *Prober) run(ctx context.Context, result any, question, path string) error {
	select {
	case p.slots <- struct{}{}:
	default:
		return fmt.Errorf("probe %s: %d probes wait for file systems that do not answer: %w", path, outstanding, errdefs.ErrUnavailable)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.executable, "probe", question, path)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		<-p.slots
		return fmt.Errorf("start probe of %s: %w", path, err)
	}
	done := make(chan error, 1)
	go func() {
		done <- cmd.Wait()
		<-p.slots
	}()
	select {
	case <-ctx.Done(): // It is killed, but may wait in the kernel and not end yet: nobody waits for it.
	case err := <-done:
		if ctx.Err() == nil {
			return decode(err, path, stdout.Bytes(), stderr.String(), result)
		}
	}
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
