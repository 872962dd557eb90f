{{- define "frameshift.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "frameshift.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "frameshift.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "frameshift.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select pods: they never change. The argument is a list of the root and the component. */}}
{{- define "frameshift.selector" -}}
app.kubernetes.io/name: {{ include "frameshift.name" (index . 0) }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "frameshift.labels" -}}
{{ include "frameshift.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version }}
{{- end -}}

{{- define "frameshift.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "frameshift.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "frameshift.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* One setting as a line of TOML. Helm reads every number as a float. */}}
{{- define "frameshift.toml" -}}
{{- $value := index . 1 -}}
{{ index . 0 }} = {{ if kindIs "string" $value }}{{ $value | toJson }}{{ else if kindIs "bool" $value }}{{ $value }}{{ else if eq (float64 (int64 $value)) (float64 $value) }}{{ int64 $value }}{{ else }}{{ $value }}{{ end }}
{{- end -}}

{{/* A setting as the text of a variable. */}}
{{- define "frameshift.text" -}}
{{- if kindIs "float64" . }}{{ if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}{{ else }}{{ . }}{{ end -}}
{{- end -}}

{{/* Checks that no schema can express. */}}
{{- define "frameshift.validate" -}}
{{- $v := .Values -}}
{{- if not $v.database.url }}{{ fail "database.url is required: the replicas share a PostgreSQL database" }}{{ end -}}
{{- if not $v.objects.url }}{{ fail "objects.url is required: the replicas share a bucket" }}{{ end -}}
{{- if and (eq $v.server.role "all") (ne $v.trainer.kind "none") }}{{ fail "server.role all trains in the serving pods: set trainer.kind to none, or server.role to serve" }}{{ end -}}
{{- $serving := int (ternary $v.server.replicas $v.server.autoscaling.maxReplicas (eq $v.server.autoscaling.kind "none")) -}}
{{- $training := 0 -}}
{{- if eq $v.trainer.kind "deployment" }}{{ $training = int (ternary $v.trainer.autoscaling.maxReplicas $v.trainer.replicas $v.trainer.autoscaling.enabled) }}{{ end -}}
{{- if eq $v.trainer.kind "scaledJob" }}{{ $training = int $v.trainer.scaledJob.maxReplicas }}{{ end -}}
{{- $surge := int $v.server.maxSurge -}}
{{- if eq $v.trainer.kind "deployment" }}{{ $surge = add $surge $v.trainer.maxSurge }}{{ end -}}
{{- $pods := add $serving $surge $training -}}
{{- $each := add $v.database.connections (ternary 1 0 (ne $v.database.listenUrl "")) -}}
{{- if gt (float64 (mul $pods $each)) (mulf 0.8 $v.database.maxConnections) }}{{ fail (printf "%d pods with %d connections each take %d of database.maxConnections = %d, which is more than 80 %%: lower the maxima or database.connections, or put a pooler in front and raise maxConnections" $pods $each (mul $pods $each) (int $v.database.maxConnections)) }}{{ end -}}
{{- if and (eq (int $v.trainer.maxSurge) 0) (eq (int $v.trainer.maxUnavailable) 0) }}{{ fail "trainer.maxSurge and trainer.maxUnavailable cannot both be 0" }}{{ end -}}
{{- if and (eq (int $v.server.maxSurge) 0) (eq (int $v.server.maxUnavailable) 0) }}{{ fail "server.maxSurge and server.maxUnavailable cannot both be 0" }}{{ end -}}
{{- if and (eq $v.backbone.source "image") (not (contains "@sha256:" $v.backbone.image.reference)) }}{{ fail "backbone.image.reference needs a digest: registry/repository@sha256:…" }}{{ end -}}
{{- if and (eq $v.backbone.source "pvc") (not $v.backbone.pvc.claimName) }}{{ fail "backbone.pvc.claimName is required for backbone.source pvc" }}{{ end -}}
{{- if and (eq $v.backbone.source "url") (not $v.backbone.url.files) }}{{ fail "backbone.url.files is required for backbone.source url" }}{{ end -}}
{{- if and $v.tls.clientCaSecretName (not $v.tls.secretName) }}{{ fail "tls.clientCaSecretName needs tls.secretName" }}{{ end -}}
{{- if and $v.tls.clientCrlSecretName (not $v.tls.clientCaSecretName) }}{{ fail "tls.clientCrlSecretName needs tls.clientCaSecretName" }}{{ end -}}
{{- if and $v.gateway.enabled $v.tls.secretName }}{{ if eq (ne $v.gateway.backendTls.caConfigMap "") $v.gateway.backendTls.systemCa }}{{ fail "gateway.enabled with tls.secretName needs either gateway.backendTls.caConfigMap or systemCa: the gateway speaks TLS to the pods and checks their certificate" }}{{ end }}{{ end -}}
{{- $outside := or (contains "oidc" $v.authentication) (contains "mtls" $v.authentication) -}}
{{- if and $outside (not $v.identities) }}{{ fail "authentication with oidc or mtls needs identities, which say who may do what" }}{{ end -}}
{{- if and $v.identities (not $outside) }}{{ fail "identities need authentication with oidc or mtls" }}{{ end -}}
{{- if and (contains "mtls" $v.authentication) (not $v.tls.clientCaSecretName) }}{{ fail "authentication with mtls needs tls.clientCaSecretName" }}{{ end -}}
{{- $own := list "listen" "metrics_listen" "admin_listen" "data_dir" "database_url" "database_listen_url" "database_password_file" "database_connections" "database_migrate" "objects_url" "objects_endpoint" "objects_credentials_file" "cache_dir" "cache_bytes" "role" "exit_when_idle" "backbone" "backbone_override" "backbone_digest" "precision" "authentication" "drain_grace" "drain_timeout" "tls_certificate" "tls_key" "tls_client_ca" "tls_client_crl" "tls_client_certificates" "identities_file" "plaintext" "insecure_allow_anonymous" "bootstrap_key_file" "key_pepper_file" -}}
{{- range $where, $settings := dict "config" $v.config "server.settings" $v.server.settings "trainer.settings" $v.trainer.settings -}}
{{- range $key := $own }}{{ if hasKey $settings $key }}{{ fail (printf "%s.%s: the chart sets it; use the chart's own value" $where $key) }}{{ end }}{{ end -}}
{{- end -}}
{{- range $kind, $it := dict "server" $v.server "trainer" $v.trainer -}}
{{- range $key, $_ := $it.settings }}{{ if hasKey $v.config $key }}{{ fail (printf "config.%s: %s.settings has it; set it there, or set that one to null" $key $kind) }}{{ end }}{{ end -}}
{{- $devices := list -}}
{{- range $name, $_ := merge (dict) (default (dict) $it.resources.limits) (default (dict) $it.resources.requests) }}{{ if contains "/" $name }}{{ $devices = append $devices $name }}{{ end }}{{ end -}}
{{- if and (or $devices $it.resourceClaims) (eq (get $it.settings "batch_memory" | toString) "256MiB") }}{{ fail (printf "%s.settings.batch_memory is a size for CPUs: set it to null, so that it is a share of the GPU's memory" $kind) }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The port of a URL: its own, or that of its scheme. Buckets of clouds have HTTPS. */}}
{{- define "frameshift.port" -}}
{{- $url := urlParse . -}}
{{- $own := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- $own | default (get (dict "http" "80" "postgres" "5432" "postgresql" "5432") $url.scheme) | default "443" -}}
{{- end -}}

{{/* Ports that pods call, as a JSON array: of the database, the bucket, the collector, issuers of tokens and servers of files, by their URLs. */}}
{{- define "frameshift.egressPorts" -}}
{{- $v := .Values -}}
{{- $urls := list $v.database.url $v.database.listenUrl $v.database.migrationUrl (default $v.objects.url $v.objects.endpoint) (get $v.config "otlp_endpoint" | toString) -}}
{{- range $v.backbone.url.files }}{{ $urls = append $urls .url }}{{ end -}}
{{- $urls = concat $urls (regexFindAll "https?://[^\"'\\s]+" $v.identities -1) -}}
{{- $ports := list -}}
{{- range compact $urls }}{{ $ports = append $ports (include "frameshift.port" . | int) }}{{ end -}}
{{- range $v.networkPolicy.egressPorts }}{{ $ports = append $ports (int .) }}{{ end -}}
{{- if $v.clusterIssuer }}{{ $ports = concat $ports (list 443 6443) }}{{ end -}}
{{- $sorted := list -}}
{{- range $ports }}{{ $sorted = append $sorted (printf "%05d" .) }}{{ end -}}
{{- $ports = list -}}
{{- range $sorted | uniq | sortAlpha }}{{ $ports = append $ports (trimPrefix "0000" . | trimPrefix "000" | trimPrefix "00" | trimPrefix "0" | int) }}{{ end -}}
{{- $ports | toJson -}}
{{- end -}}

{{/* Environment of every container: what differs between roles comes after it. */}}
{{- define "frameshift.env" -}}
- name: FRAMESHIFT_CONFIG
  value: /etc/frameshift/frameshift.toml
{{- end -}}

{{- define "frameshift.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "frameshift.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "frameshift.mounts" -}}
- {name: config, mountPath: /etc/frameshift, readOnly: true}
- {name: data, mountPath: /var/lib/frameshift/data}
- {name: cache, mountPath: /var/cache/frameshift}
- {name: tmp, mountPath: /tmp}
{{- if .Values.database.passwordSecret.name }}
- {name: database, mountPath: /run/secrets/database, readOnly: true}
{{- end }}
{{- if .Values.objects.credentialsSecret.name }}
- {name: objects, mountPath: /run/secrets/objects, readOnly: true}
{{- end }}
{{- end -}}

{{/* What the API and its callers need, and a command does not. */}}
{{- define "frameshift.callerMounts" -}}
{{- if .Values.bootstrapKeySecret.name }}
- {name: bootstrap-key, mountPath: /run/secrets/bootstrap-key, readOnly: true}
{{- end }}
{{- if .Values.pepperSecret.name }}
- {name: pepper, mountPath: /run/secrets/pepper, readOnly: true}
{{- end }}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /run/secrets/tls, readOnly: true}
{{- end }}
{{- if .Values.tls.clientCaSecretName }}
- {name: client-ca, mountPath: /run/secrets/client-ca, readOnly: true}
{{- end }}
{{- if .Values.tls.clientCrlSecretName }}
- {name: client-crl, mountPath: /run/secrets/client-crl, readOnly: true}
{{- end }}
{{- if .Values.clusterIssuer }}
- {name: cluster, mountPath: /run/secrets/cluster, readOnly: true}
{{- end }}
{{- end -}}

{{- define "frameshift.volumes" -}}
- name: config
  configMap: {name: {{ include "frameshift.fullname" . }}}
- name: data
  emptyDir:
    sizeLimit: {{ int .Values.dataGiB }}Gi
- name: cache
  emptyDir:
    sizeLimit: {{ printf "%dMi" (div (mul (int .Values.cacheGiB) 1280) 1) }}
- name: tmp
  emptyDir:
    sizeLimit: {{ int .Values.tmpGiB }}Gi
{{- with .Values.database.passwordSecret }}
{{- if .name }}
- name: database
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key | quote }}, path: password}]
{{- end }}
{{- end }}
{{- with .Values.objects.credentialsSecret }}
{{- if .name }}
- name: objects
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key | quote }}, path: credentials}]
{{- end }}
{{- end }}
{{- end -}}

{{- define "frameshift.callerVolumes" -}}
{{- with .Values.bootstrapKeySecret }}
{{- if .name }}
- name: bootstrap-key
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key | quote }}, path: key}]
{{- end }}
{{- end }}
{{- with .Values.pepperSecret }}
{{- if .name }}
- name: pepper
  secret:
    secretName: {{ .name }}
    items: [{key: {{ .key | quote }}, path: pepper}]
{{- end }}
{{- end }}
{{- if .Values.tls.secretName }}
- name: tls
  secret: {secretName: {{ .Values.tls.secretName }}}
{{- end }}
{{- if .Values.tls.clientCaSecretName }}
- name: client-ca
  secret: {secretName: {{ .Values.tls.clientCaSecretName }}}
{{- end }}
{{- if .Values.tls.clientCrlSecretName }}
- name: client-crl
  secret: {secretName: {{ .Values.tls.clientCrlSecretName }}}
{{- end }}
{{- if .Values.clusterIssuer }}
- name: cluster
  projected:
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3600}
      - configMap:
          name: kube-root-ca.crt
          items: [{key: ca.crt, path: ca.crt}]
{{- end }}
{{- end -}}

{{- define "frameshift.backboneVolume" -}}
{{- if eq .Values.backbone.source "image" }}
- name: backbone
  image:
    reference: {{ .Values.backbone.image.reference | quote }}
    pullPolicy: {{ .Values.backbone.image.pullPolicy }}
{{- else if eq .Values.backbone.source "pvc" }}
- name: backbone
  persistentVolumeClaim:
    claimName: {{ .Values.backbone.pvc.claimName }}
    readOnly: true
{{- else if eq .Values.backbone.source "url" }}
- name: backbone
  emptyDir:
    sizeLimit: {{ .Values.backbone.url.sizeGiB }}Gi
{{- end }}
{{- end -}}

{{/* Placement of pods. The argument is a list of the root and the values of the component. */}}
{{- define "frameshift.placement" -}}
{{- $it := index . 1 -}}
{{- with $it.resourceClaims }}
resourceClaims: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $it.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $it.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $it.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $it.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with $it.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* A pod's spec, from its containers on. The argument is a list of the root, the values of the component and its role. */}}
{{- define "frameshift.pod" -}}
{{- $root := index . 0 -}}
{{- $it := index . 1 -}}
{{- $role := index . 2 -}}
{{- $serves := ne $role "train" -}}
{{- $drain := $root.Values.drain -}}
serviceAccountName: {{ include "frameshift.serviceAccount" $root }}
automountServiceAccountToken: {{ $root.Values.serviceAccount.automountToken }}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "frameshift.podSecurity" $root | nindent 2 }}
terminationGracePeriodSeconds: {{ add (int $drain.preStopSeconds) (int $drain.graceSeconds) (int $drain.timeoutSeconds) 15 }}
{{- if eq $root.Values.backbone.source "url" }}
# Each goes on where it ended when a pod's container is started again, and does nothing when its file is there.
initContainers:
  {{- range $place, $file := $root.Values.backbone.url.files }}
  - name: backbone-{{ $place }}
    image: {{ include "frameshift.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: [fetch-backbone, {{ $file.url | quote }}, /backbone, --sha256={{ $file.sha256 }}{{ with $file.name }}, --name={{ . }}{{ end }}]
    securityContext: {{- include "frameshift.containerSecurity" $root | nindent 6 }}
    {{- with $it.extraEnv }}
    env: {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      requests: {cpu: 100m, memory: 64Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - {name: backbone, mountPath: /backbone}
      - {name: tmp, mountPath: /tmp}
  {{- end }}
{{- end }}
containers:
  - name: frameshift
    image: {{ include "frameshift.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: [serve, --role={{ $role }}{{ if index . 3 }}, --exit-when-idle={{ index . 3 }}{{ end }}]
    securityContext: {{- include "frameshift.containerSecurity" $root | nindent 6 }}
    env:
      {{- include "frameshift.env" $root | nindent 6 }}
      {{- range $key, $value := $it.settings }}
      - name: FRAMESHIFT_{{ upper $key }}
        value: {{ include "frameshift.text" $value | quote }}
      {{- end }}
      {{- with $it.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      {{- if $serves }}
      - {name: grpc, containerPort: 50051, protocol: TCP}
      {{- if $root.Values.service.admin }}
      - {name: admin, containerPort: 50052, protocol: TCP}
      {{- end }}
      {{- end }}
      - {name: metrics, containerPort: 9464, protocol: TCP}
    # A large backbone is loaded and warmed up within five minutes.
    startupProbe:
      httpGet: {path: /readyz, port: metrics}
      periodSeconds: 2
      failureThreshold: 150
    readinessProbe:
      httpGet: {path: /readyz, port: metrics}
      periodSeconds: 5
      failureThreshold: 2
    # Never looks outside the process: an outage of the database restarts nothing.
    livenessProbe:
      httpGet: {path: /livez, port: metrics}
      periodSeconds: 10
      failureThreshold: 6
    lifecycle:
      preStop:
        sleep: {seconds: {{ int $drain.preStopSeconds }}}
    {{- with $it.resources }}
    resources: {{- toYaml . | nindent 6 }}
    {{- end }}
    volumeMounts:
      {{- include "frameshift.mounts" $root | nindent 6 }}
      {{- with include "frameshift.callerMounts" $root | trim }}{{- . | nindent 6 }}{{- end }}
      {{- if ne $root.Values.backbone.source "builtin" }}
      - {name: backbone, mountPath: /backbone, readOnly: true}
      {{- end }}
volumes:
  {{- include "frameshift.volumes" $root | nindent 2 }}
  {{- with include "frameshift.callerVolumes" $root | trim }}{{- . | nindent 2 }}{{- end }}
  {{- with include "frameshift.backboneVolume" $root | trim }}{{- . | nindent 2 }}{{- end }}
{{- include "frameshift.placement" (list $root $it) }}
{{- end -}}

{{/* The spec of a pod that runs one command on the records and objects, with the configuration and credentials of the servers, and ends. The argument is a list of the
     root, the command's words, its resources and its own environment, which wins over that of the servers. */}}
{{- define "frameshift.command" -}}
{{- $root := index . 0 -}}
restartPolicy: Never
serviceAccountName: {{ include "frameshift.serviceAccount" $root }}
automountServiceAccountToken: {{ $root.Values.serviceAccount.automountToken }}
enableServiceLinks: false
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "frameshift.podSecurity" $root | nindent 2 }}
containers:
  - name: frameshift
    image: {{ include "frameshift.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: {{- toYaml (index . 1) | nindent 6 }}
    securityContext: {{- include "frameshift.containerSecurity" $root | nindent 6 }}
    env:
      {{- include "frameshift.env" $root | nindent 6 }}
      {{- with concat $root.Values.server.extraEnv (index . 3) }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources: {{- toYaml (index . 2) | nindent 6 }}
    volumeMounts: {{- include "frameshift.mounts" $root | nindent 6 }}
volumes: {{- include "frameshift.volumes" $root | nindent 2 }}
{{- end -}}
