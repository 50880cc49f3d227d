package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/local"
)

const (
	volumeCount = 6
	// workers is how many pods there are, about.
	workers = 8
	// step is the time between two changes of the pods, and killEvery between
	// two kills.
	step      = 2 * time.Second
	killEvery = 15 * time.Second
)

// churn makes and deletes pods until the time is over.
func (s *soakRun) churn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.duration+patience)
	defer cancel()
	end := time.After(s.duration)
	ticker, kills := time.NewTicker(step), time.NewTicker(killEvery)
	defer ticker.Stop()
	defer kills.Stop()
	for number := 0; ; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-end:
			s.say("%v", s.tally)
			return nil
		case <-kills.C:
			if err := s.kill(ctx); err != nil {
				return err
			}
		case <-ticker.C:
			number++
			if err := s.change(ctx, number); err != nil {
				return err
			}
		}
	}
}

// change makes a pod or deletes one, and looks at all.
func (s *soakRun) change(ctx context.Context, number int) error {
	pods, err := s.kube.CoreV1().Pods(s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("list workers: %w", err)
	}
	var alive []corev1.Pod
	for i := range pods.Items {
		pod := &pods.Items[i]
		switch {
		case pod.Status.Phase == corev1.PodFailed:
			s.failed(ctx, pod)
		case pod.DeletionTimestamp == nil:
			alive = append(alive, *pod)
		}
	}
	if len(alive) < workers || len(alive) < 2*workers && s.random.IntN(2) == 0 {
		s.tally["pods made"]++
		return s.makeWorker(ctx, fmt.Sprintf("worker-%d", number))
	}
	s.tally["pods deleted"]++
	victim := alive[s.random.IntN(len(alive))]
	return s.kube.CoreV1().Pods(s.namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{})
}

func (s *soakRun) makeWorker(ctx context.Context, name string) error {
	volume := fmt.Sprintf("data-%d", s.random.IntN(volumeCount))
	node := s.cluster.Nodes()[s.random.IntN(len(s.cluster.Nodes()))].Name
	pod := s.worker(name, volume, "run", "/data", "/ledgers/"+name)
	pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	_, err := s.kube.CoreV1().Pods(s.namespace).Create(ctx, pod, metav1.CreateOptions{})
	return err
}

func (s *soakRun) worker(name, volume string, args ...string) *corev1.Pod {
	grace := int64(10)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"volume": volume}},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "worker", Image: workerImage, Command: append([]string{"/worker"}, args...),
				VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}, {Name: "ledgers", MountPath: "/ledgers"}},
			}},
			Volumes: []corev1.Volume{
				{Name: "data", VolumeSource: corev1.VolumeSource{
					PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: volume},
				}},
				{Name: "ledgers", VolumeSource: corev1.VolumeSource{
					HostPath: &corev1.HostPathVolumeSource{Path: s.ledgers(volume)},
				}},
			},
		},
	}
}

func (s *soakRun) ledgers(volume string) string { return filepath.Join(s.dataDir, "ledgers", volume) }

// makeVolumes makes a file system and volumes of it by hand, so that they can
// be checked after everything else is gone.
func (s *soakRun) makeVolumes(ctx context.Context) error {
	if err := local.FlushRedis(ctx, database); err != nil {
		return err
	}
	_, err := s.kube.CoreV1().Secrets(s.namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "fs"},
		StringData: local.RedisSecret(s.namespace, database, s.dataDir+"/objects"),
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make secret: %w", err)
	}
	for i := range volumeCount {
		name := fmt.Sprintf("data-%d", i)
		if err := os.MkdirAll(s.ledgers(name), 0o755); err != nil {
			return fmt.Errorf("make directory for ledgers: %w", err)
		}
		if err := s.makeVolume(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *soakRun) makeVolume(ctx context.Context, name string) error {
	capacity := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Ti")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}
	id, class := s.namespace+"-"+name, ""
	_, err := s.kube.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: id},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: capacity, AccessModes: modes, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			ClaimRef: &corev1.ObjectReference{Namespace: s.namespace, Name: name},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				Driver: "csi.juicefs.com", VolumeHandle: id, FSType: "juicefs",
				VolumeAttributes:     map[string]string{"juicefs/host-path": s.dataDir, "subPath": name},
				NodePublishSecretRef: &corev1.SecretReference{Name: "fs", Namespace: s.namespace},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make volume %s: %w", name, err)
	}
	_, err = s.kube.CoreV1().PersistentVolumeClaims(s.namespace).Create(ctx, &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, VolumeName: id, AccessModes: modes,
			Resources: corev1.VolumeResourceRequirements{Requests: capacity},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("make claim %s: %w", name, err)
	}
	return nil
}
