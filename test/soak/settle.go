package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

// settle ends the pods, checks the data, deletes everything, and looks for
// what is left.
func (s *soakRun) settle(ctx context.Context, before map[string]bool) error {
	s.say("time is over: ending the workers")
	if err := s.endWorkers(ctx); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	if err := s.endWorkers(ctx); err != nil {
		return err
	}
	var extra []string
	err := until(ctx, "nothing is left behind", func() error {
		after, err := local.Traces(ctx, s.cluster, s.kube)
		if err != nil {
			return err
		}
		extra = nil
		for trace := range after {
			if !before[trace] {
				extra = append(extra, trace)
			}
		}
		if len(extra) > 0 {
			return errors.New(strings.Join(extra, "\n"))
		}
		return nil
	})
	if err != nil {
		s.fail("%v", err)
	}
	if err := s.removeVolumes(ctx); err != nil {
		return err
	}
	s.say("%v", s.tally)
	if len(s.failures) > 0 {
		return fmt.Errorf("%d failures, the first: %s", len(s.failures), s.failures[0])
	}
	s.say("no worker saw an error, no data is lost, nothing is left behind")
	return nil
}

// endWorkers deletes all pods of the namespace and waits until they are gone.
func (s *soakRun) endWorkers(ctx context.Context) error {
	pods := s.kube.CoreV1().Pods(s.namespace)
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		return fmt.Errorf("delete workers: %w", err)
	}
	return until(ctx, "workers are gone", func() error {
		list, err := pods.List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Status.Phase == corev1.PodFailed && list.Items[i].DeletionTimestamp == nil {
				s.failed(ctx, &list.Items[i])
			}
		}
		if len(list.Items) > 0 {
			return fmt.Errorf("%d pods are left", len(list.Items))
		}
		return nil
	})
}

// verify mounts each volume once more and compares it with its ledgers.
func (s *soakRun) verify(ctx context.Context) error {
	for i := range volumeCount {
		volume := fmt.Sprintf("data-%d", i)
		name := "verify-" + volume
		pod := s.worker(name, volume, "verify", "/data", "/ledgers")
		if _, err := s.kube.CoreV1().Pods(s.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make pod %s: %w", name, err)
		}
		phase, err := s.outcome(ctx, name)
		if err != nil {
			return err
		}
		log, err := s.kube.CoreV1().Pods(s.namespace).GetLogs(name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("read log of %s: %w", name, err)
		}
		s.say("%s: %s", volume, strings.TrimSpace(string(log)))
		if phase == corev1.PodFailed {
			s.fail("%s: %s", volume, log)
			zero := int64(0)
			_ = s.kube.CoreV1().Pods(s.namespace).Delete(ctx, name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
		}
	}
	return nil
}

// outcome waits until a pod has ended and says how.
func (s *soakRun) outcome(ctx context.Context, name string) (corev1.PodPhase, error) {
	phase := corev1.PodUnknown
	err := until(ctx, "pod "+name+" ends", func() error {
		found, err := s.kube.CoreV1().Pods(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		phase = found.Status.Phase
		if phase != corev1.PodSucceeded && phase != corev1.PodFailed {
			return fmt.Errorf("pod is %s", phase)
		}
		return nil
	})
	return phase, err
}

func (s *soakRun) removeVolumes(ctx context.Context) error {
	err := s.kube.CoreV1().Namespaces().Delete(ctx, s.namespace, metav1.DeleteOptions{})
	for i := range volumeCount {
		name := fmt.Sprintf("%s-data-%d", s.namespace, i)
		deleteErr := s.kube.CoreV1().PersistentVolumes().Delete(ctx, name, metav1.DeleteOptions{})
		if !apierrors.IsNotFound(deleteErr) {
			err = errors.Join(err, deleteErr)
		}
	}
	return err
}
