package app

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func leaderOptions() Options {
	return Options{DriverName: "csi.juicefs.com", LeaderElectionNamespace: "driver", LeaseDuration: 600 * time.Millisecond}
}

func getLease(ctx context.Context, t *testing.T, client *fake.Clientset) *coordinationv1.Lease {
	t.Helper()
	lease, err := client.CoordinationV1().Leases("driver").Get(ctx, "csi.juicefs.com", metav1.GetOptions{})
	if err != nil {
		t.Error(err)
		return &coordinationv1.Lease{}
	}
	return lease
}

func TestLeadReleasesTheLease(t *testing.T) {
	client := fake.NewClientset()
	ctx, cancel := context.WithCancel(t.Context())
	ended := false
	err := lead(ctx, leaderOptions(), client, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
		if holder := getLease(ctx, t, client).Spec.HolderIdentity; holder == nil || *holder == "" {
			t.Error("nobody holds the lease while the controller leads")
		}
		cancel()
		<-ctx.Done()
		ended = true
		return nil
	})
	if err != nil || !ended {
		t.Errorf("got %v, work ended %t", err, ended)
	}
	if holder := getLease(t.Context(), t, client).Spec.HolderIdentity; holder != nil && *holder != "" {
		t.Errorf("%s still holds the lease", *holder)
	}
}

func TestLeadReturnsTheError(t *testing.T) {
	want := errors.New("cannot work")
	err := lead(t.Context(), leaderOptions(), fake.NewClientset(), slog.New(slog.DiscardHandler),
		func(context.Context) error { return want })
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestLeadEndsWithTheLease(t *testing.T) {
	client := fake.NewClientset()
	// The API server refuses updates of what has changed; the fake does not.
	var taken atomic.Bool
	client.PrependReactor("update", "leases", func(clienttesting.Action) (bool, runtime.Object, error) {
		if !taken.Load() {
			return false, nil, nil
		}
		return true, nil, apierrors.NewConflict(coordinationv1.Resource("leases"), "csi.juicefs.com", errors.New("changed"))
	})
	err := lead(t.Context(), leaderOptions(), client, slog.New(slog.DiscardHandler), func(ctx context.Context) error {
		lease := getLease(ctx, t, client).DeepCopy()
		lease.Spec.HolderIdentity = new("another")
		lease.Spec.RenewTime = new(metav1.NewMicroTime(time.Now().Add(time.Hour)))
		if _, err := client.CoordinationV1().Leases("driver").Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
			t.Error(err)
		}
		taken.Store(true)
		<-ctx.Done()
		return nil
	})
	if !errors.Is(err, errLostLease) {
		t.Errorf("got %v, want %v", err, errLostLease)
	}
}

func TestWaitingForTheLeaseEnds(t *testing.T) {
	client := fake.NewClientset(&coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Namespace: "driver", Name: "csi.juicefs.com"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: new("another"), LeaseDurationSeconds: new(int32(3600)), RenewTime: new(metav1.NowMicro()),
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := lead(ctx, leaderOptions(), client, slog.New(slog.DiscardHandler), func(context.Context) error {
		t.Error("two controllers lead")
		return nil
	})
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}
