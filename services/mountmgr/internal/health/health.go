// Package health says whether a mount manager can do its work.
package health

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
)

// Options are what is checked.
type Options struct {
	// Ready returns nil when the mounts are in custody.
	Ready func() error
	// Write writes to the store. It may block as long as the disk does.
	Write func() error
	// Vault asks the vault for something.
	Vault func(ctx context.Context) error
}

// Checker checks. It is safe for concurrent use.
type Checker struct {
	options Options

	mu sync.Mutex
	// writing is the write that has not ended; nil when there is none.
	writing *write
}

// write is one write to the store; err is valid when done is closed.
type write struct {
	done chan struct{}
	err  error
}

// New returns a checker.
func New(options Options) *Checker { return &Checker{options: options} }

// Check reports everything that is wrong. It returns when ctx ends at the
// latest.
func (c *Checker) Check(ctx context.Context) error {
	return errors.Join(c.options.Ready(), c.store(ctx), c.vault(ctx))
}

func (c *Checker) vault(ctx context.Context) error {
	if err := c.options.Vault(ctx); err != nil {
		return fmt.Errorf("vault: %w", err)
	}
	return nil
}

// store writes once at a time: a disk that does not answer costs one goroutine,
// however often it is asked for.
func (c *Checker) store(ctx context.Context) error {
	current := c.write()
	select {
	case <-current.done:
	case <-ctx.Done():
		return fmt.Errorf("store: the disk does not answer: %w (%w)", ctx.Err(), errdefs.ErrUnavailable)
	}
	if current.err != nil {
		return fmt.Errorf("store: %w", current.err)
	}
	return nil
}

// write joins the write that runs, or begins one.
func (c *Checker) write() *write {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing != nil {
		return c.writing
	}
	begun := &write{done: make(chan struct{})}
	c.writing = begun
	go func() {
		begun.err = c.options.Write()
		c.mu.Lock()
		c.writing = nil
		c.mu.Unlock()
		close(begun.done)
	}()
	return begun
}
