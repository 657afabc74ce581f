{{- define "msd-ray.name" -}}
{{- .Values.nameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "msd-ray.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "msd-ray.account" -}}
{{- .Values.serviceAccount.name | default (include "msd-ray.name" .) -}}
{{- end -}}

{{- define "msd-ray.labels" -}}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
app.kubernetes.io/name: msd-ray
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* The volume's claim; empty where there is no volume. */}}
{{- define "msd-ray.claim" -}}
{{- $volume := .Values.storage.volume -}}
{{- if $volume.claim -}}{{ $volume.claim }}{{- else if $volume.create -}}{{ include "msd-ray.name" . }}-shared{{- end -}}
{{- end -}}

{{/* The Secret with the service's certificate; empty where there is none. */}}
{{- define "msd-ray.tlsSecret" -}}
{{- $tls := .Values.serve.tls -}}
{{- if $tls.secret -}}{{ $tls.secret }}{{- else if $tls.issuer -}}{{ include "msd-ray.name" . }}-tls{{- end -}}
{{- end -}}

{{/* KubeRay owns app.kubernetes.io/name on its pods, so ours have labels of their own. */}}
{{- define "msd-ray.podLabels" -}}
msd-ray/release: {{ include "msd-ray.name" .root }}
msd-ray/role: {{ .role }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "msd-ray.env" -}}
- name: MSD_RAY_POD # how the preStop hook tells our processes
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- {name: HOME, value: /home/ray}
- {name: MSD_RAY_CACHE, value: {{ .Values.storage.cache | quote }}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
{{- with .Values.storage.objectStore.endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ . | quote }}}
{{- end }}
{{- with .Values.storage.objectStore.region }}
- {name: AWS_DEFAULT_REGION, value: {{ . | quote }}}
{{- end }}
{{- end -}}

{{- define "msd-ray.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{/* dict root, role, size (cpu, memory, gpus), place, spot, extra (more of the container), volumes, mounts, token. */}}
{{- define "msd-ray.podTemplate" -}}
{{- $root := .root -}}
{{- $claim := include "msd-ray.claim" $root -}}
metadata:
  labels:
    {{- include "msd-ray.podLabels" . | nindent 4 }}
    {{- if .spot }}
    msd-ray/spot: "true"
    {{- end }}
  {{- with $root.Values.podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "msd-ray.account" $root }}
  automountServiceAccountToken: {{ .token | default false }}
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ $root.Values.cluster.graceSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 1000
    runAsGroup: 1000
    fsGroup: 1000
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile: {type: RuntimeDefault}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- with .place.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- with .place.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- $tolerations := concat (.place.tolerations | default list) (ternary $root.Values.cluster.spotTolerations list (.spot | default false)) }}
  {{- with $tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .place.spreadOver }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          msd-ray/release: {{ include "msd-ray.name" $root }}
          msd-ray/role: {{ $.role }}
  {{- end }}
  containers:
    - name: ray-{{ .role }}
      image: {{ include "msd-ray.image" $root | quote }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      env:
        {{- include "msd-ray.env" $root | nindent 8 }}
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $root.Values.storage.objectStore.secret }}
      envFrom:
        - secretRef: {name: {{ . }}}
      {{- end }}
      resources:
        {{- $amounts := dict "cpu" .size.cpu "memory" .size.memory }}
        {{- if .size.gpus }}
        {{- $_ := set $amounts .size.gpuResource (toString .size.gpus) }}
        {{- end }}
        requests:
          {{- toYaml $amounts | nindent 10 }}
        limits:
          {{- toYaml $amounts | nindent 10 }}
      securityContext:
        {{- include "msd-ray.containerSecurity" $root | nindent 8 }}
      lifecycle:
        preStop:
          exec:
            command: [python, -m, msd_ray.kubernetes.drain, --seconds, {{ sub $root.Values.cluster.graceSeconds 10 | quote }}]
      {{- with .extra }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: home, mountPath: /home/ray}
        {{- if $claim }}
        - {name: shared, mountPath: /shared}
        {{- end }}
        {{- with .mounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {}}
    - {name: home, emptyDir: {}}
    {{- if $claim }}
    - name: shared
      persistentVolumeClaim: {claimName: {{ $claim }}}
    {{- end }}
    {{- with .volumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* dict root, gateway (bool), volumes and mounts of the head, more (of every pod), ft. A RayClusterSpec. */}}
{{- define "msd-ray.clusterSpec" -}}
{{- $root := .root -}}
{{- $cluster := $root.Values.cluster -}}
rayVersion: {{ $cluster.rayVersion | quote }}
authOptions:
  mode: token
  {{- with $cluster.authSecret }}
  secretName: {{ . }}
  {{- end }}
{{- if $cluster.autoscaling.enabled }}
enableInTreeAutoscaling: true
autoscalerOptions:
  version: v2
  idleTimeoutSeconds: {{ $cluster.autoscaling.idleSeconds }}
  upscalingMode: Default
  securityContext:
    {{- include "msd-ray.containerSecurity" $root | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: home, mountPath: /home/ray}
{{- end }}
{{- if .faultTolerance }}
gcsFaultToleranceOptions:
  backend: rocksdb
  storage:
    size: 1Gi
    accessModes: [ReadWriteOnce]
    deletionPolicy: DeleteWithCluster
{{- end }}
headGroupSpec:
  rayStartParams:
    num-cpus: "0"
    dashboard-host: 0.0.0.0
  template:
    {{- $stop := list (dict "name" "RAY_JOB_STOP_WAIT_TIME_S" "value" (toString (sub $cluster.graceSeconds 30 | max 10))) }}
    {{- $head := dict "root" $root "role" "head" "size" $cluster.head "place" dict "token" $cluster.autoscaling.enabled "env" $stop "volumes" .volumes "mounts" .mounts }}
    {{- include "msd-ray.podTemplate" $head | nindent 4 }}
workerGroupSpecs:
  {{- range $name, $said := $cluster.workers }}
  {{- $group := mergeOverwrite ($root.Files.Get "files/worker-group.json" | fromJson) $said }}
  - groupName: {{ $name }}
    replicas: {{ $group.replicas }}
    minReplicas: {{ ternary $group.min $group.replicas $cluster.autoscaling.enabled }}
    maxReplicas: {{ $group.max }}
    rayStartParams: {}
    template:
      {{- $pod := dict "root" $root "role" "worker" "size" $group "place" $group "spot" $group.spot "volumes" $.moreVolumes "mounts" $.moreMounts }}
      {{- include "msd-ray.podTemplate" $pod | nindent 6 }}
  {{- end }}
  {{- if .gateway }}
  {{- include "msd-ray.gatewayGroup" . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Pods that callers reach. Nothing but gateways has the resource `gateway` to ask for, and there are no CPUs here. */}}
{{- define "msd-ray.gatewayGroup" -}}
{{- $serve := .root.Values.serve -}}
- groupName: gateway
  replicas: {{ $serve.gateway.replicas }}
  minReplicas: {{ $serve.gateway.replicas }}
  maxReplicas: {{ $serve.gateway.replicas }}
  rayStartParams:
    num-cpus: "0"
    resources: {{ `"{\"gateway\": 1}"` | squote }}
  template:
    {{- $ports := list (dict "name" "grpc" "containerPort" $serve.grpcPort) (dict "name" "http" "containerPort" $serve.httpPort) }}
    {{- $probe := dict "grpc" (dict "port" $serve.grpcPort) "periodSeconds" 2 "timeoutSeconds" 2 "failureThreshold" 2 }}
    {{- if $serve.tls.clientCa }}
    {{- /* whoever probes has no certificate */}}
    {{- $probe = dict "tcpSocket" (dict "port" $serve.grpcPort) "periodSeconds" 2 "timeoutSeconds" 2 "failureThreshold" 2 }}
    {{- else if include "msd-ray.tlsSecret" .root }}
    {{- /* Kubernetes' own gRPC probe speaks no TLS */}}
    {{- $probe = dict "exec" (dict "command" (list "python" "-m" "msd_ray.kubernetes.probe" "--port" (toString $serve.grpcPort) "--ca" "/etc/msd-ray/tls/tls.crt")) "periodSeconds" 5 "timeoutSeconds" 4 "failureThreshold" 2 }}
    {{- end }}
    {{- $alive := dict "exec" (dict "command" (list "python" "-m" "msd_ray.kubernetes.probe" "--raylet")) "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 12 "initialDelaySeconds" 30 }}
    {{- $extra := dict "ports" $ports "readinessProbe" $probe "livenessProbe" $alive }}
    {{- $pod := dict "root" .root "role" "gateway" "size" $serve.gateway "place" $serve.gateway "extra" $extra "volumes" .moreVolumes "mounts" .moreMounts }}
    {{- include "msd-ray.podTemplate" $pod | nindent 4 }}
{{- end -}}
