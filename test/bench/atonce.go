package main

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// atOnceCount is how many pods are made at one moment.
const atOnceCount = 30

// atOnce makes many pods at one moment: each with a volume of its own, and all
// with one volume that is mounted.
func (b *bench) atOnce(ctx context.Context) error {
	var claims, shared []string
	for i := range atOnceCount {
		claims = append(claims, fmt.Sprintf("burst-%d", i))
		shared = append(shared, "burst-0")
	}
	if err := b.volumes(ctx, claims...); err != nil {
		return err
	}
	b.say("%d pods at once, each with its own volume", atOnceCount)
	if err := b.burst(ctx, "at_once.volumes", claims); err != nil {
		return err
	}
	if _, err := b.startApp(ctx, "holder", "burst-0", "stamp"); err != nil {
		return err
	}
	b.say("%d pods at once on one mounted volume", atOnceCount)
	return b.burst(ctx, "at_once.one_volume", shared)
}

// burst makes pods with these claims at once and records when all run.
func (b *bench) burst(ctx context.Context, name string, claims []string) error {
	began := time.Now()
	for i, claim := range claims {
		pod := b.newApp(fmt.Sprintf("burst-%d", i), claim, "stamp")
		if _, err := b.kube.CoreV1().Pods(b.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("make pod %s: %w", pod.Name, err)
		}
	}
	err := until(ctx, "all pods run", func() error {
		list, err := b.kube.CoreV1().Pods(b.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for i := range list.Items {
			if list.Items[i].Status.Phase != corev1.PodRunning {
				return fmt.Errorf("pod %s is %s", list.Items[i].Name, list.Items[i].Status.Phase)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	b.add(name+".all_running", time.Since(began).Seconds(), "s", len(claims))
	return b.deleteApps(ctx)
}
