package task_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/juicefs-csi/driver/libs/task"
)

func untilEnd(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestFirstErrorEndsTheRest(t *testing.T) {
	cause := errors.New("cannot listen")
	group := task.NewGroup(t.Context())
	group.Go("waits", untilEnd)
	group.Go("fails", func(context.Context) error { return cause })
	err := group.Wait()
	if !errors.Is(err, cause) || err.Error() != "fails: cannot listen" {
		t.Errorf("got %v", err)
	}
}

func TestEndIsNoError(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	group := task.NewGroup(ctx)
	group.Go("waits", untilEnd)
	group.Go("returns early", func(context.Context) error { return nil })
	cancel()
	if err := group.Wait(); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestCanceledIsAnErrorBeforeTheEnd(t *testing.T) {
	group := task.NewGroup(t.Context())
	group.Go("fails", func(context.Context) error { return context.Canceled })
	if err := group.Wait(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestErrorsWhileEnding(t *testing.T) {
	group := task.NewGroup(t.Context())
	first, second := errors.New("one"), errors.New("two")
	group.Go("b", func(ctx context.Context) error {
		<-ctx.Done()
		return second
	})
	group.Go("a", func(context.Context) error { return first })
	err := group.Wait()
	if !errors.Is(err, first) || !errors.Is(err, second) || !strings.HasPrefix(err.Error(), "a: one") {
		t.Errorf("got %v, want both, the first one first", err)
	}
}

func TestPanicIsAnError(t *testing.T) {
	group := task.NewGroup(t.Context())
	group.Go("waits", untilEnd)
	group.Go("panics", func(context.Context) error {
		assign(nil)
		return nil
	})
	err := group.Wait()
	if err == nil || !strings.Contains(err.Error(), "panics: panic:") || !strings.Contains(err.Error(), "task_test.go") {
		t.Errorf("got %v, want the panic with its stack", err)
	}
}

// assign panics when values is nil.
func assign(values map[string]int) { values["x"] = 1 }
